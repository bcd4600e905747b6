/** A virtual list: only the visible rows are in the document. */

import { make } from './dom.js'

const MARGIN_ROWS = 4

/**
 * @typedef {object} ListSection
 * @property {string} name
 * @property {number} count
 * @property {(index: number) => string|null} keyAt The row's key, null until it is fetched.
 * @property {boolean} header Whether the section has a heading.
 */

export class VirtualList {
  /**
   * @param {HTMLElement} scroller The scrolling element. It gets one child, as high as the whole list.
   * @param {object} options
   * @param {number} options.rowHeight Pixels of a row.
   * @param {number} options.headerHeight Pixels of a heading.
   * @param {(kind: 'row'|'header'|'gap', name: string, key: string|null) => {element: HTMLElement, update: Function}}
   *   options.create Creates the view of a row, a heading, or a gap, which is a row that is not fetched yet.
   * @param {(name: string, start: number, end: number) => void} options.onRange Called with the visible rows.
   * @param {(key: string) => boolean} options.exists Whether the list still has this row, visible or not.
   */
  constructor(scroller, { rowHeight, headerHeight, create, onRange, exists }) {
    this._scroller = scroller
    this._rowHeight = rowHeight
    this._headerHeight = headerHeight
    this._create = create
    this._onRange = onRange
    this._exists = exists
    this._sections = []
    this._views = new Map()
    this._frame = 0
    this._canvas = make('div', { class: 'xalora-list-canvas', role: 'presentation' })
    scroller.replaceChildren(this._canvas)
    this._onScroll = () => this._schedule()
    scroller.addEventListener('scroll', this._onScroll, { passive: true })
    this._resize = new ResizeObserver(() => this._schedule())
    this._resize.observe(scroller)
  }

  /** @param {ListSection[]} sections */
  show(sections) {
    const anchor = this._anchor()
    this._sections = this._laidOut(sections)
    this._canvas.style.height = `${this._height}px`
    this._restore(anchor)
    this._draw()
  }

  /** Update the visible rows. */
  update() {
    for (const view of this._views.values()) view.update(view.key, view.index)
  }

  scrollToTop() {
    this._scroller.scrollTop = 0
  }

  /** Move the focus from a row to the one before or after it, or to the ends. */
  focusNeighbour(element, step) {
    const rows = [...this._views.values()].filter((view) => view.kind === 'row').sort((a, b) => a.top - b.top)
    const at = rows.findIndex((view) => view.element.contains(element))
    if (at < 0) return
    const next = rows[Math.min(rows.length - 1, Math.max(0, at + step))]
    next.focus?.()
    next.element.scrollIntoView({ block: 'nearest' })
  }

  destroy() {
    this._resize.disconnect()
    this._scroller.removeEventListener('scroll', this._onScroll)
    cancelAnimationFrame(this._frame)
    this._views.clear()
  }

  _laidOut(sections) {
    let top = 0
    const laidOut = sections.map((section) => {
      const headerTop = top
      const rowsTop = top + (section.header ? this._headerHeight : 0)
      top = rowsTop + section.count * this._rowHeight
      return { ...section, headerTop, rowsTop }
    })
    this._height = top
    return laidOut
  }

  _schedule() {
    if (this._frame) return
    this._frame = requestAnimationFrame(() => {
      this._frame = 0
      this._draw()
    })
  }

  _draw() {
    const { scrollTop, clientHeight } = this._scroller
    if (clientHeight === 0) return
    const from = scrollTop - MARGIN_ROWS * this._rowHeight
    const to = scrollTop + clientHeight + MARGIN_ROWS * this._rowHeight
    const places = []
    for (const section of this._sections) {
      if (section.header && section.headerTop + this._headerHeight >= from && section.headerTop <= to) {
        places.push({ id: `header ${section.name}`, kind: 'header', section, key: null, top: section.headerTop })
      }
      const start = Math.max(0, Math.floor((from - section.rowsTop) / this._rowHeight))
      const end = Math.min(section.count, Math.ceil((to - section.rowsTop) / this._rowHeight))
      for (let index = start; index < end; index += 1) {
        const key = section.keyAt(index)
        const id = key === null ? `gap ${section.name} ${index}` : `row ${key}`
        const top = section.rowsTop + index * this._rowHeight
        places.push({ id, kind: key === null ? 'gap' : 'row', section, key, index, top })
      }
      if (end > start) this._onRange(section.name, start, end)
    }
    this._place(places)
  }

  _place(places) {
    const wanted = new Set(places.map((place) => place.id))
    let orphaned = null
    for (const [id, view] of this._views) {
      if (wanted.has(id)) continue
      const focused = view.kind === 'row' && view.element.contains(document.activeElement)
      // A row with the focus stays, even when it is scrolled out of sight.
      if (focused && this._exists(view.key)) continue
      if (focused) orphaned = view.top
      view.element.remove()
      this._views.delete(id)
    }
    let before = null
    for (const { id, kind, section, key, index, top } of places) {
      let view = this._views.get(id)
      if (!view) {
        view = { ...this._create(kind, section.name, key), kind, key }
        view.element.classList.add('xalora-list-item')
        this._views.set(id, view)
      }
      view.index = index
      if (view.top !== top) {
        view.top = top
        view.element.style.transform = `translateY(${top}px)`
      }
      view.update(key, index)
      // The Tab key and screen readers follow the order in the document.
      const expected = before ? before.nextSibling : this._canvas.firstChild
      if (view.element !== expected) this._canvas.insertBefore(view.element, expected)
      before = view.element
    }
    if (orphaned !== null) this.focusNear(orphaned)
  }

  /** The top of a row in pixels; null where it is not visible. */
  topOf(key) {
    return this._views.get(`row ${key}`)?.top ?? null
  }

  /** Focus the visible row that is nearest to this top. */
  focusNear(top) {
    const rows = [...this._views.values()].filter((view) => view.kind === 'row')
    rows.sort((a, b) => Math.abs(a.top - top) - Math.abs(b.top - top))
    rows[0]?.focus()
  }

  /** The first visible row, which keeps its position when rows are inserted above it. */
  _anchor() {
    const { scrollTop } = this._scroller
    if (scrollTop <= 0) return null
    for (const section of this._sections) {
      const index = Math.max(0, Math.ceil((scrollTop - section.rowsTop) / this._rowHeight))
      const key = index < section.count ? section.keyAt(index) : null
      if (key !== null) return { key, index, name: section.name, from: section.rowsTop + index * this._rowHeight - scrollTop }
    }
    return null
  }

  _restore(anchor) {
    if (!anchor) return
    const section = this._sections.find(({ name }) => name === anchor.name)
    if (!section) return
    // Rows are inserted at the top, a few at a time, so the search begins at the old index.
    for (let step = 0; step < 200; step += 1) {
      for (const index of step === 0 ? [anchor.index] : [anchor.index + step, anchor.index - step]) {
        if (index >= 0 && index < section.count && section.keyAt(index) === anchor.key) {
          const top = section.rowsTop + index * this._rowHeight - anchor.from
          if (Math.abs(top - this._scroller.scrollTop) > 0.5) this._scroller.scrollTop = top
          return
        }
      }
    }
  }
}
