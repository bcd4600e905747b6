/** The sidebar tab: banner, search, filters, task list and footer. */

import { copyText, fill, fillAs, icon, iconButton, make, setText, textButton } from './dom.js'
import { openForgetDialog } from './forget_dialog.js'
import { hostOf, problemText } from './key_dialog.js'
import { createTaskView } from './task_view.js'
import { wholeTitle } from './task_words.js'
import { VirtualList } from './virtual_list.js'

const ROW_HEIGHT = 64
const HEADER_HEIGHT = 34
const TICK = 1000
const FRESH = 15
const ANSWERS = ['accepted', 'no_miner']
const FILTERS = ['all', 'active', 'done', 'failed']

export class Panel {
  /**
   * @param {object} context
   * @param {Function} context.t Looks up texts.
   * @param {import('./service.js').Service} context.service
   * @param {import('./store.js').TaskStore} context.store
   * @param {object} context.host Functions of ComfyUI: `canShowNode`, `showNode`, `confirm`, `prompt`, `toast`,
   *   `openKey`, `openSettings`, `openExamples`, `addNode`, `openViewer`.
   */
  constructor(context) {
    this._context = context
    this._element = null
    this._status = null
    this._networkError = null
    this._statusTurn = 0
    this._offline = false
    this._ticking = 0
    this._checkedAt = 0
    this._onChange = () => this._show()
  }

  /** Build the panel in ComfyUI's element; ComfyUI calls this more than once with the same one. */
  mount(slot) {
    if (this._element?.parentElement === slot) return
    this.unmount()
    slot.classList.add('xalora-slot')
    this._build()
    slot.replaceChildren(this._element)
    this._context.store.addEventListener('change', this._onChange)
    this._ticking = setInterval(() => {
      if (!document.hidden) this._list?.update()
    }, TICK)
    this._show()
    void this._context.store.open()
    void this._checkNetwork()
  }

  unmount() {
    if (!this._element) return
    clearInterval(this._ticking)
    this._context.store.removeEventListener('change', this._onChange)
    this._context.store.close()
    this._list?.destroy()
    this._list = null
    this._element.remove()
    this._element = null
  }

  /** @param {object} status The server's status of key, network and settings. */
  setStatus(status) {
    // An answer to an earlier request is out of date from now on.
    this._statusTurn += 1
    this._status = status
    this._networkError = null
    this._show()
  }

  /** Request the status. */
  async refreshStatus() {
    const turn = ++this._statusTurn
    const status = await this._context.service.status()
    if (turn === this._statusTurn) this.setStatus(status)
  }

  /** The last verdict on the current key, or the error of its request; null before the first. */
  get _network() {
    return this._networkError ?? this._status?.network ?? null
  }

  /** @param {boolean} offline Whether the connection to ComfyUI is lost. */
  setOffline(offline) {
    if (this._offline === offline) return
    this._offline = offline
    this._show()
    if (!offline && this._element) {
      void this._context.store.refresh()
      void this._checkNetwork()
    }
  }

  /** Check the network again when pushed tasks show that it has started or stopped to answer. */
  noticeTasks(tasks) {
    if (!this._element || !this._status?.key?.present) return
    const now = this._context.store.now()
    const fresh = tasks.filter((row) => now - Math.max(row.ended_at ?? 0, row.submitted_at ?? 0) < FRESH)
    const isDown = this._network !== null && !ANSWERS.includes(this._network.outcome)
    const refused = fresh.some((row) => row.state === 'not_sent')
    const accepted = fresh.some((row) => row.state === 'submitted' || row.state === 'kept')
    if (!(isDown ? accepted : refused) || Date.now() - this._checkedAt < FRESH * 1000) return
    this._checkedAt = Date.now()
    void this._checkNetwork(true)
  }

  /** Request the status, and test the key in the network. */
  async _checkNetwork(again = false) {
    let turn = this._statusTurn
    try {
      await this.refreshStatus()
      turn = this._statusTurn
      if (!this._status?.key?.present) return
      await this._context.service.testKey(!again)
      await this.refreshStatus()
    } catch (error) {
      if (error.isOffline || turn !== this._statusTurn) return
      this._networkError = { outcome: 'failed', message: error.message }
      this._show()
    }
  }

  _build() {
    const { t } = this._context
    this._banner = make('div', { class: 'xalora-banners', 'aria-live': 'polite' })
    this._search = make('input', {
      type: 'search',
      class: 'xalora-input xalora-search',
      placeholder: t('filter.search'),
      'aria-label': t('filter.search'),
      spellcheck: 'false',
      on: { input: () => this._context.store.setText(this._search.value.trim()) }
    })
    this._search.addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && this._search.value) {
        event.stopPropagation()
        this._clearSearch()
      } else if (event.key === 'ArrowDown') {
        event.preventDefault()
        this._scroller.querySelector('.xalora-task-main')?.focus()
      }
    })
    this._filters = new Map(
      FILTERS.map((name) => {
        const count = make('span', { class: 'xalora-count' })
        const button = make(
          'button',
          { type: 'button', class: 'xalora-filter', data: { filter: name }, on: { click: () => this._setFilter(name) } },
          make('span', { text: t(`filter.${name}`) }),
          count
        )
        return [name, { button, count }]
      })
    )
    this._whole = make('div', { class: 'xalora-whole' })
    this._scroller = make('div', { class: 'xalora-list', role: 'list', 'aria-label': t('list.label') })
    this._scroller.addEventListener('keydown', (event) => this._onListKey(event))
    this._empty = make('div', { class: 'xalora-empty' })
    this._foot = make('footer', { class: 'xalora-foot' })
    this._announcer = make('div', { class: 'xalora-visually-hidden', role: 'status', 'aria-live': 'polite' })
    this._element = make(
      'section',
      { class: 'xalora xalora-panel', 'aria-label': t('title') },
      make(
        'header',
        { class: 'xalora-head' },
        make('span', { class: 'xalora-mark', 'aria-hidden': 'true' }),
        make('h2', { class: 'xalora-head-title', text: t('title') }),
        iconButton('key', t('action.openKey'), () => this._context.host.openKey()),
        iconButton('cog', t('action.openSettings'), () => this._context.host.openSettings())
      ),
      this._banner,
      make(
        'div',
        { class: 'xalora-tools' },
        make('div', { class: 'xalora-search-field' }, icon('search'), this._search),
        make('div', { class: 'xalora-filters', role: 'group', 'aria-label': t('filter.label') }, ...[...this._filters.values()].map(({ button }) => button)),
        this._whole
      ),
      this._scroller,
      this._empty,
      this._foot,
      this._announcer
    )
    this._search.value = this._context.store.text
    this._actions = this._newActions()
    this._list = new VirtualList(this._scroller, {
      rowHeight: ROW_HEIGHT,
      headerHeight: HEADER_HEIGHT,
      create: (kind, name, key) => this._createItem(kind, name, key),
      onRange: (name, start, end) => this._context.store.want(name, start, end),
      exists: (key) => this._context.store.has(Number(key))
    })
  }

  /** The actions on a task, for its row and for its viewer. */
  _newActions() {
    const { t, service, store, host } = this._context
    const act = (name, done) => async (row, body) => {
      try {
        const answer = await service.act(row.id, name, body)
        done(row, answer)
      } catch (error) {
        host.toast({ severity: 'error', summary: error.message, detail: error.detail, life: 10000 })
        void store.refresh()
      }
    }
    // The next run of the node does it, which has the task's images.
    const wish = (name) =>
      act(name, (row, fresh) => {
        store.put(fresh)
        host.toast({ severity: 'info', summary: t(`notice.${name}`), detail: t('notice.pressRun'), life: 8000 })
      })
    const forget = act('forget', (row) => store.drop(row.id))
    return {
      open: (row) => host.openViewer(row, this._actions),
      openWhole: (row) => this._setWhole(row.whole),
      cancelWhole: (row) => this._cancelAll({ whole: row.whole.id }),
      forgetWhole: (row) => this._forgetAll({ ...store.history, whole: row.whole.id }),
      showNode: (row) => host.showNode(row),
      cancel: act('cancel', (_, fresh) => store.put(fresh)),
      resume: act('resume', (_, fresh) => store.put(fresh)),
      takeUp: async (row) => {
        const id = await host.prompt({ title: t('confirm.takeUpTitle'), message: t('confirm.takeUp') })
        if (id?.trim()) await act('take_up', (_, fresh) => store.put(fresh))(row, { task_id: id.trim() })
      },
      sendAgain: wish('send_again'),
      makeAgain: wish('make_again'),
      takeBack: act('take_back', (_, fresh) => store.put(fresh)),
      copy: async (row) => {
        await copyText(row.task_id)
        host.toast({ severity: 'success', summary: t('notice.copied'), detail: row.task_id, life: 2500 })
      },
      forget: async (row) => {
        const sure = await host.confirm({
          title: t('confirm.forgetTitle'),
          message: t(row.files.length ? 'confirm.forgetKept' : row.group === 'active' || row.state === 'unknown' ? 'confirm.forgetOpen' : 'confirm.forget'),
          yes: t('action.forget'),
          no: t('confirm.keep')
        })
        if (!sure) return
        const top = this._list?.topOf(row.id) ?? null
        await forget(row)
        // The focus was in the confirmation or in the removed row.
        if (top !== null && !store.has(row.id) && document.activeElement === document.body) this._list?.focusNear(top)
      }
    }
  }

  /** @param {{whole: string}} which The id of what only the parts are canceled of; '' for all tasks. */
  async _cancelAll({ whole }) {
    const { t, service, host } = this._context
    try {
      const { total: count } = await service.tasks({ groups: ['active'], whole, each: true, limit: 0 })
      const sure = await host.confirm({
        title: t('confirm.cancelAllTitle'),
        message: t(whole ? 'confirm.cancelWhole' : 'confirm.cancelAll', { count }),
        yes: t('confirm.cancelAllYes', { count }),
        no: t('confirm.cancelAllNo')
      })
      if (!sure) return
      const { canceled, failed } = await service.cancelAll(whole)
      host.toast({
        severity: failed.length ? 'warn' : 'success',
        summary: t('notice.canceledAll', { count: canceled }),
        detail: failed[0] ?? '',
        life: 6000
      })
    } catch (error) {
      host.toast({ severity: 'error', summary: error.message, detail: error.detail, life: 10000 })
    }
  }

  /** Forget all these ended tasks, or those without a result, as the user says. */
  async _forgetAll({ groups, text, whole }) {
    const { t, service, store, host } = this._context
    try {
      const counted = await Promise.all(groups.map((group) => service.tasks({ groups: [group], text, whole, each: true, limit: 0 })))
      const totals = Object.fromEntries(groups.map((group, index) => [group, counted[index].total]))
      const chosen = await openForgetDialog({ results: totals.done ?? 0, others: totals.failed ?? 0, isSearch: Boolean(text) }, t)
      if (!chosen) return
      // What has changed since the question stays.
      const version = Math.min(...counted.map((answer) => answer.version))
      const { forgotten, left } = await service.forgetAll({ groups: groups.filter((group) => chosen === 'all' || group !== 'done'), text, whole, version })
      host.toast({
        severity: left ? 'warn' : 'success',
        summary: t('notice.forgotten', { count: forgotten }),
        detail: left ? t('notice.forgottenLeft', { count: left }) : '',
        life: 8000
      })
    } catch (error) {
      host.toast({ severity: 'error', summary: error.message, detail: error.detail, life: 10000 })
    }
    await store.refresh()
  }

  _createItem(kind, name, key) {
    if (kind === 'header') return this._createHeader(name)
    if (kind === 'gap') {
      const element = make('div', { class: 'xalora-task xalora-gap', 'aria-hidden': 'true' })
      return { element, update: () => {} }
    }
    const { t, service, store, host } = this._context
    const view = createTaskView({
      t,
      service,
      now: () => store.now(),
      isPart: (row) => row.whole !== null && row.whole.id === store.whole?.id,
      partsOf: (row) => (row.whole && !store.whole ? store.parts.get(row.whole.id) : null),
      canShowNode: host.canShowNode,
      actions: this._actions
    })
    return {
      element: view.element,
      focus: view.focus,
      update: (_, index) => {
        const row = store.rows.get(Number(key))
        if (row) view.update(row, index, store.sections.find((section) => section.name === name)?.total)
      }
    }
  }

  _createHeader(name) {
    const { t, store } = this._context
    const count = make('span', { class: 'xalora-count' })
    const element = make(
      'div',
      { class: 'xalora-section', role: 'presentation' },
      make('h3', { class: 'xalora-section-title', text: t(`list.${name}`) }),
      count,
      make('span', { class: 'xalora-spring' }),
      name === 'active' ? headerButton(t('action.cancelAll'), () => this._cancelAll({ whole: store.whole?.id ?? '' })) : headerButton(t('action.forgetAll'), () => this._forgetAll(store.history))
    )
    return {
      element,
      update: () => setText(count, String(store.sections.find((section) => section.name === name)?.total ?? 0))
    }
  }

  _onListKey(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -1e9, End: 1e9 }
    if (!(event.key in steps) || !event.target.closest('.xalora-task')) return
    event.preventDefault()
    event.stopPropagation()
    this._list.focusNeighbour(event.target, steps[event.key])
  }

  _setFilter(name) {
    this._context.store.setFilter(name)
    this._list.scrollToTop()
    this._show()
  }

  /** Show the parts of a whole, or all tasks again. */
  _setWhole(whole) {
    this._context.store.setWhole(whole)
    this._list.scrollToTop()
    this._show()
    this._whole.querySelector('button')?.focus()
  }

  _showWhole() {
    const { t, store } = this._context
    const { whole } = store
    this._whole.hidden = !whole
    fillAs(this._whole, whole?.id ?? '', () =>
      whole ? textButton(wholeTitle(whole), () => this._setWhole(null), { iconName: 'arrow-left', title: t('whole.back'), 'aria-label': `${t('whole.back')}: ${wholeTitle(whole)}` }) : null
    )
  }

  _clearSearch() {
    this._search.value = ''
    this._context.store.setText('')
    this._search.focus()
  }

  _show() {
    if (!this._element) return
    const { store } = this._context
    this._showFilters()
    this._showWhole()
    fillAs(this._banner, this._signature(), () => this._bannerFor())
    this._showFoot()
    const sections = store.sections.filter((section) => section.total > 0)
    const visible = store.loaded ? sections : []
    const isEmpty = visible.length === 0
    this._scroller.hidden = isEmpty
    this._empty.hidden = !isEmpty
    const signature = `${isEmpty} ${store.loaded} ${store.filter} ${store.text} ${store.whole?.id} ${store.everything > 0} ${this._signature()}`
    fillAs(this._empty, signature, () => (!isEmpty ? null : store.loaded ? this._emptyState() : this._beforeTasks()))
    this._list.show(
      visible.map(({ name, ids, total }) => ({
        name,
        count: total,
        header: true,
        keyAt: (index) => (ids[index] === undefined ? null : String(ids[index]))
      }))
    )
    this._announce()
  }

  _showFilters() {
    const { store } = this._context
    const parts = store.whole && store.parts.get(store.whole.id)
    const counts = parts ? { all: Object.values(parts).reduce((sum, count) => sum + count, 0), ...parts } : { all: store.everything, ...store.counts }
    for (const [name, { button, count }] of this._filters) {
      button.setAttribute('aria-pressed', String(store.filter === name))
      setText(count, counts[name] ? compact(counts[name]) : '')
    }
  }

  _announce() {
    const { t, store } = this._context
    if (store.loaded) setText(this._announcer, t('list.announcement', store.counts))
  }

  /** A signature of everything that the banner and the empty states depend on. */
  _signature() {
    const { error } = this._context.store
    return JSON.stringify([this._offline, error && [error.status, error.message], this._status, this._network])
  }

  /** The banner with the most important problem, or null. */
  _bannerFor() {
    const { t, host, store } = this._context
    const status = this._status
    if (this._offline || store.error?.isOffline) return banner('bad', 'wifi', t('offline.title'), t('offline.text'))
    if (status?.problem) {
      return banner('bad', 'exclamation-triangle', t('problem.title'), problemText(status, t), textButton(t('action.openSettings'), () => host.openSettings()))
    }
    if (status?.key && !status.key.present) {
      return banner(
        'note',
        'key',
        t('noKey.title'),
        `${t('noKey.text')} ${t(`noKey.policy.${status.fallback}`)}`,
        textButton(t('noKey.action'), () => host.openKey(), { kind: 'primary' })
      )
    }
    const outcome = this._network?.outcome
    if (status?.key && (outcome === 'unreachable' || outcome === 'refused' || outcome === 'failed')) {
      return banner(
        'bad',
        outcome === 'refused' ? 'lock' : 'cloud',
        t(`network.${outcome}`, { host: hostOf(status.endpoint.url) }),
        [outcome === 'unreachable' ? '' : this._network.message, this._consequence(outcome)].filter(Boolean).join(' '),
        outcome === 'refused' ? textButton(t('action.openKey'), () => host.openKey(), { kind: 'primary' }) : null,
        textButton(t('action.tryAgain'), () => this._checkNetwork(true), { iconName: 'refresh' })
      )
    }
    return null
  }

  /** The effect of a network problem on nodes. A rejected key never falls back, so that the user notices it. */
  _consequence(outcome) {
    const { fallback } = this._status
    const never = outcome === 'refused' && fallback !== 'local_only'
    return this._context.t(never ? 'network.untilReplaced' : `network.policy.${fallback}`)
  }

  _showFoot() {
    const { t } = this._context
    const status = this._status
    if (!status?.endpoint) {
      fill(this._foot)
      return
    }
    const outcome = this._network?.outcome
    const tone = this._offline ? 'bad' : !status.key.present ? 'note' : { accepted: 'good', no_miner: 'note' }[outcome] ?? (outcome ? 'bad' : 'idle')
    const host = hostOf(status.endpoint.url)
    const words = !status.key.present ? t('foot.noKey') : outcome === 'no_miner' ? t('foot.noMiner') : t(`policy.${status.fallback}`)
    fill(
      this._foot,
      this._sums(),
      make(
        'div',
        { class: 'xalora-foot-network' },
        make('span', { class: 'xalora-dot', data: { tone } }),
        make('span', { class: 'xalora-foot-host', text: host, title: status.endpoint.url }),
        make('span', { class: 'xalora-foot-words', text: words, title: t('foot.policy', { policy: t(`policy.${status.fallback}`) }) })
      )
    )
  }

  /** What the last run has sent, and what was sent since midnight; null where that is nothing. */
  _sums() {
    const { t, store } = this._context
    const sums = [
      ['lastRun', store.lastRun],
      ['today', store.today]
    ].filter(([, sent]) => sent?.tasks)
    if (!sums.length) return null
    return make(
      'div',
      { class: 'xalora-foot-sums' },
      ...sums.map(([name, { tasks, cost }]) =>
        make('span', {
          class: 'xalora-foot-sum',
          data: { sum: name },
          title: t(`foot.${name}Hint`),
          text: cost === null ? t(`foot.${name}`, { count: tasks }) : t(`foot.${name}Cost`, { count: tasks, cost })
        })
      )
    )
  }

  _beforeTasks() {
    const { t, store } = this._context
    if (!store.error) {
      return make('div', { class: 'xalora-loading', role: 'status', 'aria-label': t('list.loading') }, ...Array.from({ length: 4 }, () => make('div', { class: 'xalora-task xalora-gap' })))
    }
    // The banner shows it.
    if (store.error.isOffline || this._status?.problem) return null
    return emptyState(
      'exclamation-triangle',
      store.error.message,
      store.error.detail ?? '',
      textButton(t('action.tryAgain'), () => store.refresh(), { iconName: 'refresh' })
    )
  }

  _emptyState() {
    const { t, store, host } = this._context
    if (store.text) {
      return emptyState('search', t('empty.search', { text: store.text }), '', textButton(t('action.clearSearch'), () => this._clearSearch()))
    }
    if (store.whole) return emptyState('inbox', t('empty.whole'), '', textButton(t('whole.back'), () => this._setWhole(null)))
    if (store.everything > 0) {
      return emptyState('inbox', t(`empty.${store.filter}`), '', textButton(t('empty.showAll'), () => this._setFilter('all')))
    }
    const examples = textButton(t('empty.examples'), () => host.openExamples(), { iconName: 'folder-open' })
    if (this._status?.key && !this._status.key.present) return emptyState('cloud', t('empty.title'), t('empty.noKey'), examples)
    return emptyState(
      'cloud',
      t('empty.title'),
      t('empty.text'),
      textButton(t('empty.addNode'), () => host.addNode(), { kind: 'primary', iconName: 'plus' }),
      examples
    )
  }
}

function headerButton(text, onClick) {
  return make('button', { type: 'button', class: 'xalora-link xalora-danger', text, on: { click: onClick } })
}

function banner(tone, iconName, title, text, ...buttons) {
  return make(
    'div',
    { class: 'xalora-banner', data: { tone }, role: tone === 'bad' ? 'alert' : 'note' },
    icon(iconName),
    make(
      'div',
      { class: 'xalora-banner-words' },
      make('div', { class: 'xalora-banner-title', text: title }),
      text ? make('div', { class: 'xalora-hint', text }) : null,
      buttons.some(Boolean) ? make('div', { class: 'xalora-buttons' }, ...buttons) : null
    )
  )
}

function emptyState(iconName, title, text, ...buttons) {
  return make(
    'div',
    { class: 'xalora-empty-words' },
    make('span', { class: 'xalora-empty-icon' }, icon(iconName)),
    make('div', { class: 'xalora-empty-title', text: title }),
    text ? make('p', { class: 'xalora-hint', text }) : null,
    buttons.length ? make('div', { class: 'xalora-buttons xalora-buttons-column' }, ...buttons) : null
  )
}

function compact(count) {
  return count < 1000 ? String(count) : `${(count / 1000).toFixed(count < 10000 ? 1 : 0)}k`
}
