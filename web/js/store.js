/** The sidebar's copy of the task list: fetched by the page as needed, and updated by pushed changes. */

const PAGE = 100
const SEARCH_PAUSE = 200

/** The sidebar's filters: which groups of tasks the two sections show; null hides a section. */
const FILTERS = {
  all: { active: ['active'], history: ['done', 'failed'] },
  active: { active: ['active'], history: null },
  done: { active: null, history: ['done'] },
  failed: { active: null, history: ['failed'] }
}

/** One section's task ids, the latest first. `ids` has a hole for each task that has not been fetched. */
class Section {
  constructor(groups) {
    this.groups = groups
    this.ids = []
    this.asked = new Set()
    this.wanted = [0, PAGE]
  }

  get total() {
    return this.ids.length
  }

  pages([start, end]) {
    const pages = []
    for (let page = Math.floor(Math.max(0, start) / PAGE); page * PAGE < Math.max(end, 1); page += 1) pages.push(page)
    return pages
  }

  isWhole(page) {
    const end = Math.min((page + 1) * PAGE, this.total)
    for (let index = page * PAGE; index < end; index += 1) if (this.ids[index] === undefined) return false
    return true
  }

  put(offset, ids, total) {
    if (total !== this.total) this.ids.length = total
    ids.forEach((id, index) => {
      this.ids[offset + index] = id
    })
  }

  remove(id) {
    const index = this.ids.indexOf(id)
    if (index >= 0) this.ids.splice(index, 1)
    return index >= 0
  }

  insert(id) {
    // Ids grow, so the newest are first. Among holes the index is unknown, and everything after it is fetched again.
    let index = 0
    while (index < this.total && this.ids[index] !== undefined && this.ids[index] > id) index += 1
    if (index < this.total && this.ids[index] === undefined) {
      this.ids.length = index
      this.ids.length = this.total + 1
      return
    }
    this.ids.splice(index, 0, id)
  }
}

/**
 * Dispatches `change` when its contents have changed, and `failure` with `detail.error` when a request failed.
 */
export class TaskStore extends EventTarget {
  /** @param {import('./service.js').Service} service */
  constructor(service) {
    super()
    this.rows = new Map()
    /** How many rows there are in each group. */
    this.counts = { active: 0, done: 0, failed: 0 }
    /** How many there are that are not active; a clip with done and failed frames is one. */
    this.historyTotal = 0
    /** For each whole that rows are parts of, as the server counts them: `{active, done, failed}`. */
    this.parts = new Map()
    /** What only the parts are shown of, `{id, label}`; null for all tasks, where a whole is one row. */
    this.whole = null
    /** What was sent since midnight: `{tasks, cost}`. */
    this.today = null
    /** The same of the last run that sent anything. */
    this.lastRun = null
    this.filter = 'all'
    this.text = ''
    this.loaded = false
    this.error = null
    this._service = service
    this._version = -1
    this._clockOffset = 0
    this._generation = 0
    this._open = false
    this._sections = this._newSections()
    this._searching = null
  }

  /** The sections to show: `[{name, section}]`. */
  get sections() {
    return Object.entries(this._sections)
      .filter(([, section]) => section !== null)
      .map(([name, section]) => ({ name, ids: section.ids, total: section.total }))
  }

  /** Whether a section contains this task. */
  has(id) {
    return this.sections.some(({ ids }) => ids.includes(id))
  }

  /** What the history shows now: its `groups`, the search's `text`, and the `version` of what is shown. */
  get history() {
    return { groups: this._sections.history?.groups ?? [], text: this.text, whole: this.whole?.id ?? '', version: this._version }
  }

  /** The number of all rows, regardless of the filter. */
  get everything() {
    return this.counts.active + this.historyTotal
  }

  /** Seconds on the server's clock, as all times in rows. */
  now() {
    return Date.now() / 1000 + this._clockOffset
  }

  /** Begin to hold tasks: the sidebar is open. */
  async open() {
    this._open = true
    await this.refresh()
  }

  /** Drop everything but the counts: the sidebar is closed. */
  close() {
    this._open = false
    this.loaded = false
    this.filter = 'all'
    this.text = ''
    this.whole = null
    clearTimeout(this._searching)
    this.rows.clear()
    this.parts.clear()
    this._sections = this._newSections()
    this._generation += 1
  }

  setFilter(filter) {
    if (this.filter === filter) return
    this.filter = filter
    this._restart()
  }

  /** @param {{id: string, label: string}|null} whole Show its parts, each in a row; null for all tasks. */
  setWhole(whole) {
    if (this.whole?.id === whole?.id) return
    this.whole = whole
    this._restart()
  }

  setText(text) {
    if (this.text === text) return
    this.text = text
    clearTimeout(this._searching)
    this._searching = setTimeout(() => this._restart(), SEARCH_PAUSE)
  }

  /** Fetch the visible rows of a section. */
  want(name, start, end) {
    const section = this._sections[name]
    if (!section) return
    section.wanted = [start, end]
    for (const page of section.pages([start, end])) {
      if (!section.asked.has(page) && !section.isWhole(page)) void this._fetch(name, section, page)
    }
  }

  /** Fetch the visible rows again. */
  async refresh() {
    if (!this._open) return
    const generation = ++this._generation
    const sections = this._newSections()
    try {
      const answers = await Promise.all(
        Object.entries(sections).flatMap(([name, section]) => {
          if (section === null) return []
          section.wanted = this._sections[name]?.wanted ?? section.wanted
          return section.pages(section.wanted).map(async (page) => [section, page, await this._page(section, page)])
        })
      )
      if (generation !== this._generation) return
      for (const [section, page, answer] of answers) this._take(section, page, answer)
      this._sections = sections
      this.loaded = true
      this._succeed()
    } catch (error) {
      if (generation === this._generation) this._fail(error)
    }
  }

  /** Apply a message pushed by the server. */
  apply(message) {
    this._clockOffset = message.now - Date.now() / 1000
    this._takeSums(message)
    if (!this._open || !this.loaded) {
      this._changed()
      return
    }
    if (message.reload || message.since > this._version) {
      void this.refresh()
      return
    }
    this._version = Math.max(this._version, message.version)
    for (const id of message.removed) this._forget(id)
    let elsewhere = false
    for (const row of message.tasks) elsewhere = !this._place(row) || elsewhere
    if (elsewhere || !this._agrees()) void this.refresh()
    else this._changed()
  }

  /** Apply one row, the answer to an action. */
  put(row) {
    if (!this._place(row)) void this.refresh()
    else this._changed()
  }

  /** Remove the row of a forgotten task. */
  drop(id) {
    this._forget(id)
    this._changed()
  }

  _newSections() {
    const groups = FILTERS[this.filter]
    return {
      active: groups.active && new Section(groups.active),
      history: groups.history && new Section(groups.history)
    }
  }

  _restart() {
    for (const section of Object.values(this._sections)) if (section) section.wanted = [0, PAGE]
    void this.refresh()
  }

  async _fetch(name, section, page) {
    section.asked.add(page)
    try {
      const answer = await this._page(section, page)
      if (this._sections[name] !== section) return
      if (answer.total !== section.total) {
        await this.refresh()
        return
      }
      this._take(section, page, answer)
      this._succeed()
    } catch (error) {
      this._fail(error)
    } finally {
      section.asked.delete(page)
    }
  }

  _page(section, page) {
    return this._service.tasks({ groups: section.groups, text: this.text, whole: this.whole?.id ?? '', offset: page * PAGE, limit: PAGE })
  }

  _take(section, page, answer) {
    this._version = Math.max(this._version, answer.version)
    this._clockOffset = answer.now - Date.now() / 1000
    this._takeSums(answer)
    for (const row of answer.tasks) this._note(row)
    section.put(
      page * PAGE,
      answer.tasks.map((row) => row.id),
      answer.total
    )
  }

  _takeSums({ counts, history, today, last_run: lastRun }) {
    this.counts = counts
    this.historyTotal = history
    this.today = today
    this.lastRun = lastRun
  }

  _note(row) {
    this.rows.set(row.id, row)
    if (row.whole) this.parts.set(row.whole.id, row.whole.parts)
  }

  /** Put a row into its section; false where only the server knows what is to be shown. */
  _place(row) {
    const known = this.rows.get(row.id)
    if (known && known.version > row.version) return true
    if (this.whole && row.whole?.id !== this.whole.id) return true
    if (this.text && (!this._shows(row) || known?.state !== row.state || known?.status !== row.status)) return false
    this._note(row)
    let isKnown = true
    for (const section of Object.values(this._sections)) {
      if (section === null) continue
      const belongs = section.groups.includes(row.group)
      if (row.whole && !this.whole) {
        isKnown = this._placePart(section, row, belongs) && isKnown
        continue
      }
      const stands = section.ids.includes(row.id)
      if (stands && !belongs) section.remove(row.id)
      if (!stands && belongs) section.insert(row.id)
    }
    return isKnown
  }

  /** The newest part stands for its whole. */
  _placePart(section, row, belongs) {
    const standing = section.ids.find((id) => this.rows.get(id)?.whole?.id === row.whole.id)
    if (belongs) {
      if (standing === row.id || standing > row.id) return true
      if (standing === undefined && section.ids.includes(undefined)) return false
      if (standing !== undefined) section.remove(standing)
      section.insert(row.id)
    } else if (standing === row.id) {
      section.remove(row.id)
      return section.groups.every((group) => !row.whole.parts[group])
    }
    return true
  }

  /** Whether the row is in its section already. */
  _shows(row) {
    return Object.values(this._sections).some((section) => section?.groups.includes(row.group) && section.ids.includes(row.id))
  }

  _forget(id) {
    this.rows.delete(id)
    for (const section of Object.values(this._sections)) section?.remove(id)
  }

  /** Whether the totals equal the server's counts; a difference is the only sign of a removal by another process. */
  _agrees() {
    if (this.text || this.whole) return true
    return Object.values(this._sections).every(
      (section) => section === null || section.total === (section.groups.length > 1 ? this.historyTotal : this.counts[section.groups[0]])
    )
  }

  _succeed() {
    this.error = null
    this._changed()
  }

  _fail(error) {
    this.error = error
    this.dispatchEvent(new CustomEvent('failure', { detail: { error } }))
    this._changed()
  }

  _changed() {
    this.dispatchEvent(new Event('change'))
  }
}
