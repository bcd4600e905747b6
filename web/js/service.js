/** A client for the pack's HTTP routes. */

import { namedIn } from './search.js'

const ROOT = '/xalora'

/** An error answer of a route. `detail` says what it means for the money, and what to do next. */
export class ServiceError extends Error {
  constructor(what, detail = '', status = 0) {
    super(what)
    this.name = 'ServiceError'
    this.detail = detail
    this.status = status
  }

  /** Whether ComfyUI did not answer. */
  get isOffline() {
    return this.status === 0
  }
}

export class Service {
  /**
   * @param api ComfyUI's `api`.
   * @param {Function} t Looks up texts.
   */
  constructor(api, t) {
    this._api = api
    this._t = t
  }

  status() {
    return this._get('/status')
  }

  settings() {
    return this._get('/settings')
  }

  /**
   * A page of tasks. With `each`, each part of a whole counts; else a whole is one row, unless it is named.
   *
   * @param {{groups?: string[], text?: string, whole?: string, each?: boolean, offset?: number, limit?: number}} query
   */
  tasks({ groups = [], text = '', whole = '', each = false, offset = 0, limit = 100 } = {}) {
    const values = new URLSearchParams({ ...this._which(groups, text, whole), each: each ? '1' : '', offset, limit })
    return this._get(`/tasks?${values}`)
  }

  /** Prompt, seed, size and cost of a task. */
  details(row) {
    return this._get(`/tasks/${row.id}/details`)
  }

  /** Forget the tasks of these groups that match the search, unless they have changed since this version. */
  forgetAll({ groups, text = '', whole = '', version }) {
    return this._post('/tasks/forget', { ...this._which(groups, text, whole), version })
  }

  _which(groups, text, whole) {
    return { groups: groups.join(','), text, whole, named: JSON.stringify(namedIn(text, this._t)) }
  }

  /** @param {'cancel'|'resume'|'forget'|'send_again'|'make_again'|'take_back'|'take_up'} action */
  act(id, action, body = {}) {
    return this._post(`/tasks/${id}/${action}`, body)
  }

  /** @param {string} whole The id of what only the parts are canceled of; all tasks without it. */
  cancelAll(whole = '') {
    return this._post('/tasks/cancel', { whole })
  }

  /** Let more be sent than the limit of a day, until midnight. */
  liftLimit() {
    return this._post('/limit/lift')
  }

  setKey(key, endpoint) {
    return this._post('/key', { key, endpoint })
  }

  removeKey() {
    return this._post('/key/remove')
  }

  /** @param {boolean} recent Accept an answer of the last minute. */
  testKey(recent = false) {
    return this._post('/key/test', { recent })
  }

  /** URLs for `src` and `href`. The job id keeps a cached picture from being shown for another task. */
  previewUrl(row) {
    return this._api.apiURL(`${ROOT}/tasks/${row.id}/preview?of=${encodeURIComponent(row.job_id)}`)
  }

  inputUrl(row) {
    return this._api.apiURL(`${ROOT}/tasks/${row.id}/input?of=${encodeURIComponent(row.job_id)}`)
  }

  fileUrl(row, index) {
    return this._api.apiURL(`${ROOT}/tasks/${row.id}/files/${index}?of=${encodeURIComponent(row.job_id)}`)
  }

  _get(path) {
    return this._ask(path, { cache: 'no-store' })
  }

  _post(path, body = {}) {
    return this._ask(path, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', 'X-Xalora': '1' },
      body: JSON.stringify(body)
    })
  }

  async _ask(path, options) {
    let response
    try {
      response = await this._api.fetchApi(ROOT + path, options)
    } catch {
      throw new ServiceError(this._t('offline.title'))
    }
    const answer = await response.json().catch(() => null)
    if (response.ok && answer !== null) return answer
    const error = answer?.error
    if (error) throw new ServiceError(error.what, [error.money, error.next_step].filter(Boolean).join(' '), response.status)
    // A proxy whose ComfyUI is down, or a ComfyUI without this pack.
    const status = response.status >= 500 ? 0 : response.status
    throw new ServiceError(this._t('offline.status', { status: response.status }), '', status)
  }
}
