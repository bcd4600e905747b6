/** Modal dialogs, based on the browser's `<dialog>`, which keeps the focus inside and closes on Escape. */

import { iconButton, make } from './dom.js'

let serial = 0

/**
 * Open a dialog and return it; its `close` event removes it.
 *
 * @param {string} title
 * @param {object} options
 * @param {Function} options.t Looks up texts.
 * @param {string} [options.kind] Added to the class.
 * @param {Node[]} options.body
 * @param {Node[]} [options.footer]
 * @returns {HTMLDialogElement}
 */
export function openDialog(title, { t, kind = '', body, footer = [] }) {
  const before = document.activeElement
  const titleId = `xalora-dialog-${(serial += 1)}`
  const dialog = make(
    'dialog',
    { class: `xalora xalora-dialog ${kind}`.trim(), 'aria-labelledby': titleId },
    make(
      'header',
      { class: 'xalora-dialog-head' },
      make('h2', { id: titleId, class: 'xalora-dialog-title', text: title }),
      iconButton('times', t('action.close'), () => dialog.close())
    ),
    make('div', { class: 'xalora-dialog-body' }, ...body),
    footer.length ? make('footer', { class: 'xalora-dialog-foot' }, ...footer) : null
  )
  // Keep ComfyUI's shortcuts from acting on the canvas behind.
  for (const event of ['keydown', 'keyup', 'keypress', 'paste', 'copy']) {
    dialog.addEventListener(event, (raised) => raised.stopPropagation())
  }
  // Also while nothing has the focus, as after a focused button was disabled.
  const strayKey = (event) => {
    if (dialog.contains(event.target) || [...document.querySelectorAll('dialog[open]')].at(-1) !== dialog) return
    event.stopImmediatePropagation()
    if (event.key === 'Escape') dialog.close()
  }
  window.addEventListener('keydown', strayKey, { capture: true })
  dialog.addEventListener('pointerdown', (pressed) => {
    if (pressed.target === dialog) dialog.close()
  })
  dialog.addEventListener('close', () => {
    dialog.remove()
    window.removeEventListener('keydown', strayKey, { capture: true })
    if (before?.isConnected) before.focus({ preventScroll: true })
  })
  document.body.append(dialog)
  dialog.showModal()
  return dialog
}
