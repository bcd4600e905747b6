/** The question which of the shown tasks to forget. */

import { openDialog } from './dialog.js'
import { make, textButton } from './dom.js'

/**
 * Ask; the answer is `all`, `others` (those without a result), or null.
 *
 * @param {{results: number, others: number, isSearch: boolean}} counts How many tasks have a result, and how many do not.
 * @param {Function} t Looks up texts.
 * @returns {Promise<string|null>}
 */
export function openForgetDialog({ results, others, isSearch }, t) {
  return new Promise((resolve) => {
    let answer = null
    const count = results + others
    const say = (chosen) => () => {
      answer = chosen
      dialog.close()
    }
    const keep = textButton(t('forget.keep'), say(null))
    const dialog = openDialog(t('forget.title', { count }), {
      t,
      kind: 'xalora-dialog-narrow xalora-forget',
      body: [
        make('p', { class: 'xalora-note', text: t(isSearch ? 'forget.found' : 'forget.shown') }),
        make('p', { class: results ? 'xalora-note xalora-danger' : 'xalora-hint', text: results ? t('forget.deleted', { count: results }) : t('forget.nothingDeleted') }),
        make('p', { class: 'xalora-hint', text: t('forget.spared') }),
        make(
          'div',
          { class: 'xalora-buttons xalora-buttons-wrap' },
          keep,
          results && others ? textButton(t('forget.others', { count: others }), say('others')) : null,
          textButton(results ? t('forget.all') : t('forget.yes'), say('all'), { kind: 'danger', iconName: 'trash' })
        )
      ]
    })
    dialog.addEventListener('close', () => resolve(answer))
    keep.focus()
  })
}
