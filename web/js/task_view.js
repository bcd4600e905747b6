/** The row of one task in the list. */

import { icon, iconButton, make, setAttribute, setText } from './dom.js'
import { ageOf, iconOf, kindOf, lineOf, partTitle, partsLine, progressOf, stateOf, titleOf, toneOf, wholeTitle } from './task_words.js'

const TONE_ICONS = { good: 'check', bad: 'exclamation-triangle', note: 'minus-circle', idle: 'pause', busy: '' }

/**
 * @param {object} context
 * @param {Function} context.t Looks up texts.
 * @param {import('./service.js').Service} context.service
 * @param {() => number} context.now The server's time in seconds.
 * @param {(row: object) => boolean} context.isPart Whether a row stands among the parts of its whole.
 * @param {(row: object) => object|null} context.partsOf For a row that stands for a whole: how many parts of it are in each group.
 * @param {(row: object) => boolean} context.canShowNode
 * @param {object} context.actions `open`, `cancel`, `resume`, `forget`, `copy`, `showNode`, each given the row; for a whole
 *   `openWhole`, `cancelWhole`, `forgetWhole`.
 */
export function createTaskView(context) {
  const { t, actions } = context
  let row = null
  let parts = null

  const thumbnail = make('span', { class: 'xalora-thumbnail', 'aria-hidden': 'true' })
  const badge = make('span', { class: 'xalora-badge' })
  const title = make('span', { class: 'xalora-task-title' })
  const age = make('span', { class: 'xalora-task-age' })
  const line = make('span', { class: 'xalora-task-line' })
  const bar = make('span', { class: 'xalora-bar-value' })
  const track = make('span', { class: 'xalora-bar', 'aria-hidden': 'true' }, bar)
  const unfold = make('span', { class: 'xalora-unfold', 'aria-hidden': 'true' }, icon('angle-right'))
  const main = make(
    'button',
    { type: 'button', class: 'xalora-task-main', on: { click: () => (parts ? actions.openWhole(row) : actions.open(row)) } },
    thumbnail,
    make('span', { class: 'xalora-task-words' }, make('span', { class: 'xalora-task-head' }, title, age), line),
    unfold
  )
  const buttons = {
    node: iconButton('map-marker', t('action.showNode'), () => actions.showNode(row)),
    resume: iconButton('refresh', t('action.resume'), () => actions.resume(row)),
    copy: iconButton('copy', t('action.copyId'), () => actions.copy(row)),
    forget: iconButton('trash', t('action.forget'), () => (parts ? actions.forgetWhole(row) : actions.forget(row))),
    cancel: iconButton('times', t('action.cancel'), () => (parts ? actions.cancelWhole(row) : actions.cancel(row)), { class: 'xalora-danger' })
  }
  for (const [name, button] of Object.entries(buttons)) button.dataset.action = name
  const tools = make('span', { class: 'xalora-task-tools' }, ...Object.values(buttons))
  const element = make('div', { class: 'xalora-task', role: 'listitem' }, main, tools, track)
  thumbnail.after(badge)

  let picture
  let shownVersion = null

  function showPicture() {
    const url = pictureUrl(row, context.service)
    if (url === picture) return
    picture = url
    thumbnail.replaceChildren(icon(iconOf(row)))
    if (!url) return
    const image = make('img', { src: url, alt: '', decoding: 'async', loading: 'lazy', draggable: 'false' })
    image.addEventListener('load', () => {
      if (picture === url) thumbnail.replaceChildren(image)
    })
    // A lazy image loads only when it is in the document.
    thumbnail.append(image)
  }

  function showFixed() {
    const tone = shownTone()
    setText(title, shownTitle())
    setAttribute(title, 'title', parts ? row.whole.label : row.label)
    unfold.hidden = !parts
    element.dataset.tone = tone
    element.dataset.state = row.state
    element.dataset.id = row.id
    element.dataset.video = String(row.files[0]?.kind === 'video')
    badge.className = `xalora-badge pi ${TONE_ICONS[tone] ? `pi-${TONE_ICONS[tone]}` : ''}`
    badge.hidden = tone === 'busy' || tone === 'good'
    buttons.cancel.hidden = parts ? row.group !== 'active' : !row.actions.includes('cancel')
    buttons.resume.hidden = Boolean(parts) || !row.actions.includes('resume')
    buttons.forget.hidden = row.group === 'active' || !(parts || row.actions.includes('forget'))
    buttons.copy.hidden = Boolean(parts) || !row.task_id
    track.hidden = row.group !== 'active'
    showPicture()
  }

  function shownTitle() {
    if (parts) return wholeTitle(row.whole)
    return context.isPart(row) ? partTitle(row, t) : titleOf(row, t)
  }

  function shownTone() {
    if (!parts || row.group === 'active') return toneOf(row)
    if (!parts.failed) return 'good'
    return parts.done ? 'note' : toneOf(row)
  }

  return {
    element,
    focus: () => main.focus(),
    update(shown, index, total) {
      row = shown
      parts = context.partsOf(row)
      const stamp = `${row.version} ${row.leased} ${row.has_input} ${row.error ?? ''} ${row.actions} ${parts && JSON.stringify(parts)}`
      if (stamp !== shownVersion) {
        shownVersion = stamp
        showFixed()
      }
      const now = context.now()
      const words = parts ? partsLine(parts, t) : lineOf(row, now, t)
      setText(line, words)
      // Not while it counts seconds: a changing tooltip flickers.
      setAttribute(line, 'title', shownTone() === 'busy' ? null : words)
      setText(age, row.group === 'active' ? '' : ageOf(row, now, t))
      setAttribute(main, 'aria-label', [shownTitle(), kindOf(row, t), parts ? '' : stateOf(row, t), words].filter(Boolean).join(', '))
      setAttribute(element, 'aria-posinset', index + 1)
      setAttribute(element, 'aria-setsize', total)
      buttons.node.hidden = Boolean(parts) || !context.canShowNode(row)
      const progress = parts ? null : progressOf(row, now)
      track.classList.toggle('xalora-bar-unknown', progress === null && shownTone() === 'busy')
      bar.style.width = progress === null ? '' : `${(progress * 100).toFixed(1)}%`
    }
  }
}

/** The URL of a task's picture: of its result, else of its input, else null. */
export function pictureUrl(row, service) {
  if (row.files.length) return service.previewUrl(row)
  return row.has_input ? service.inputUrl(row) : null
}
