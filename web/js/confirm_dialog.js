/** A question with two answers that say what each does. */

import { openDialog } from './dialog.js'
import { make, textButton } from './dom.js'

/**
 * Ask, and return whether the answer is yes; closing the dialog is a no.
 *
 * @param {object} question
 * @param {string} question.title
 * @param {string} question.message
 * @param {string} question.yes
 * @param {string} question.no
 * @param {Function} t Looks up texts.
 * @returns {Promise<boolean>}
 */
export function openConfirmDialog({ title, message, yes, no }, t) {
  return new Promise((resolve) => {
    const keep = textButton(no, () => dialog.close())
    const act = textButton(yes, () => dialog.close('yes'), { kind: 'danger' })
    const dialog = openDialog(title, {
      t,
      kind: 'xalora-dialog-narrow',
      body: [make('p', { class: 'xalora-note', text: message }), make('div', { class: 'xalora-buttons' }, make('span', { class: 'xalora-spring' }), keep, act)]
    })
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'))
    keep.focus()
  })
}
