/** The row of one task in the list. */

import { icon, iconButton, make, setAttribute, setText } from './dom.js'
import { ageOf, iconOf, kindOf, lineOf, progressOf, stateOf, titleOf, toneOf } from './task_words.js'

const TONE_ICONS = { good: 'check', bad: 'exclamation-triangle', note: 'minus-circle', idle: 'pause', busy: '' }

/**
 * @param {object} context
 * @param {Function} context.t Looks up texts.
 * @param {import('./service.js').Service} context.service
 * @param {() => number} context.now The server's time in seconds.
 * @param {(row: object) => boolean} context.canShowNode
 * @param {object} context.actions `open`, `cancel`, `resume`, `forget`, `copy`, `showNode`, each given the row.
 */
export function createTaskView(context) {
  const { t, actions } = context
  let row = null

  const thumbnail = make('span', { class: 'xalora-thumbnail', 'aria-hidden': 'true' })
  const badge = make('span', { class: 'xalora-badge' })
  const title = make('span', { class: 'xalora-task-title' })
  const age = make('span', { class: 'xalora-task-age' })
  const line = make('span', { class: 'xalora-task-line' })
  const bar = make('span', { class: 'xalora-bar-value' })
  const track = make('span', { class: 'xalora-bar', 'aria-hidden': 'true' }, bar)
  const main = make(
    'button',
    { type: 'button', class: 'xalora-task-main', on: { click: () => actions.open(row) } },
    thumbnail,
    make('span', { class: 'xalora-task-words' }, make('span', { class: 'xalora-task-head' }, title, age), line)
  )
  const buttons = {
    node: iconButton('map-marker', t('action.showNode'), () => actions.showNode(row)),
    resume: iconButton('refresh', t('action.resume'), () => actions.resume(row)),
    copy: iconButton('copy', t('action.copyId'), () => actions.copy(row)),
    forget: iconButton('trash', t('action.forget'), () => actions.forget(row)),
    cancel: iconButton('times', t('action.cancel'), () => actions.cancel(row), { class: 'xalora-danger' })
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
    const tone = toneOf(row)
    setText(title, titleOf(row, t))
    setAttribute(title, 'title', row.label)
    element.dataset.tone = tone
    element.dataset.state = row.state
    element.dataset.id = row.id
    element.dataset.video = String(row.files[0]?.kind === 'video')
    badge.className = `xalora-badge pi ${TONE_ICONS[tone] ? `pi-${TONE_ICONS[tone]}` : ''}`
    badge.hidden = tone === 'busy' || tone === 'good'
    buttons.cancel.hidden = !row.actions.includes('cancel')
    buttons.resume.hidden = !row.actions.includes('resume')
    buttons.forget.hidden = !row.actions.includes('forget') || row.group === 'active'
    buttons.copy.hidden = !row.task_id
    track.hidden = row.group !== 'active'
    showPicture()
  }

  return {
    element,
    focus: () => main.focus(),
    update(shown, index, total) {
      row = shown
      const stamp = `${row.version} ${row.leased} ${row.error ?? ''} ${row.actions}`
      if (stamp !== shownVersion) {
        shownVersion = stamp
        showFixed()
      }
      const now = context.now()
      const words = lineOf(row, now, t)
      setText(line, words)
      // Not while it counts seconds: a changing tooltip flickers.
      setAttribute(line, 'title', toneOf(row) === 'busy' ? null : words)
      setText(age, row.group === 'active' ? '' : ageOf(row, now, t))
      setAttribute(main, 'aria-label', [titleOf(row, t), kindOf(row, t), stateOf(row, t), words].join(', '))
      setAttribute(element, 'aria-posinset', index + 1)
      setAttribute(element, 'aria-setsize', total)
      buttons.node.hidden = !context.canShowNode(row)
      const progress = progressOf(row, now)
      track.classList.toggle('xalora-bar-unknown', progress === null && toneOf(row) === 'busy')
      bar.style.width = progress === null ? '' : `${(progress * 100).toFixed(1)}%`
    }
  }
}

/** The URL of a task's picture: of its result, else of its input, else null. */
export function pictureUrl(row, service) {
  if (row.files.length) return service.previewUrl(row)
  return row.has_input ? service.inputUrl(row) : null
}
