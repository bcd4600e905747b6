/** The question whether to send more than the limit of a day. */

import { openDialog } from './dialog.js'
import { make, textButton } from './dom.js'

/**
 * @param {string} message What is reached.
 * @param {object} context
 * @param {Function} context.t Looks up texts.
 * @param {import('./service.js').Service} context.service
 * @param {(message: object) => void} context.toast Shows one of ComfyUI's toasts.
 */
export function openLimitDialog(message, { t, service, toast }) {
  if (document.querySelector('.xalora-limit')) return
  const no = textButton(t('limit.no'), () => dialog.close())
  const yes = textButton(t('limit.yes'), lift, { kind: 'primary' })
  const dialog = openDialog(t('limit.title'), {
    t,
    kind: 'xalora-dialog-narrow xalora-limit',
    body: [
      make('p', { class: 'xalora-note', text: message }),
      make('p', { class: 'xalora-hint', text: t('limit.text') }),
      make('div', { class: 'xalora-buttons' }, make('span', { class: 'xalora-spring' }), no, yes)
    ]
  })
  no.focus()

  async function lift() {
    try {
      await service.liftLimit()
      toast({ severity: 'info', summary: t('limit.lifted'), detail: t('notice.pressRun'), life: 8000 })
    } catch (error) {
      toast({ severity: 'error', summary: error.message, detail: error.detail, life: 10000 })
    }
    dialog.close()
  }
  return dialog
}
