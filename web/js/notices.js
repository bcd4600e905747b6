/** Toasts for prompts that fell back, one for each; and the dialogs for what a node lacks: a key, or a yes. */

const LIFE = 12000
const REMEMBERED = 200

/** The names of the errors of nodes that need an answer. */
const NO_KEY = '.NoKeyError'
const LIMIT_REACHED = '.LimitReachedError'

/**
 * @param {object} context
 * @param {Function} context.t Looks up texts.
 * @param {(message: object) => void} context.toast Shows one of ComfyUI's toasts.
 * @param {() => Promise<HTMLDialogElement>} context.openKey Opens the key dialog.
 * @param {(message: string) => HTMLDialogElement|undefined} context.askLimit Asks whether to send more than the limit of
 *   a day.
 */
export function createNotices({ t, toast, openKey, askLimit }) {
  const shown = new Set()

  function once(promptId, message) {
    if (shown.has(promptId)) return
    shown.add(promptId)
    if (shown.size > REMEMBERED) shown.delete(shown.values().next().value)
    toast({ life: LIFE, ...message })
  }

  return {
    /**
     * @param {{prompt_id: string, reason: string, money: string, engine: string, count: number, total: number}} event
     *   The `xalora.fallback` event.
     */
    onFallback(event) {
      once(event.prompt_id, {
        severity: 'warn',
        summary: t('notice.fallback'),
        detail: [
          sentence(firstWords(event.reason)),
          t(event.total > 1 ? 'notice.fallbackSome' : 'notice.fallbackOne', event),
          event.money
        ]
          .filter(Boolean)
          .join(' ')
      })
    },

    /**
     * ComfyUI shows the error itself, so nothing is said twice; what asks for an answer takes the place of its dialog.
     *
     * @param {object} event ComfyUI's `execution_error`.
     */
    async onError(event) {
      const type = String(event.exception_type ?? '')
      const words = firstWords(event.exception_message ?? '')
      let dialog = null
      if (type.endsWith(NO_KEY) && !document.querySelector('.xalora-key')) dialog = await openKey()
      if (type.endsWith(LIMIT_REACHED)) dialog = askLimit(words)
      if (dialog) takePlaceOfComfys(dialog, words)
    }
  }
}

/** Close ComfyUI's dialog with these words, which may open after ours, and give ours the focus back. */
function takePlaceOfComfys(dialog, words) {
  const focused = document.activeElement
  let wasThere = false
  const look = () => {
    const isThere = closeComfys(words)
    if (wasThere && !isThere) {
      observer.disconnect()
      if (dialog.contains(focused)) focused.focus()
    }
    wasThere = isThere
  }
  const observer = new MutationObserver(look)
  observer.observe(document.body, { childList: true, subtree: true })
  dialog.addEventListener('close', () => {
    observer.disconnect()
    closeComfys(words)
  })
  look()
}

/** Close ComfyUI's dialog with these words, or the card that current ones show in its place; false where there is neither. */
function closeComfys(words) {
  const dialog = [...document.querySelectorAll('.p-dialog')].find((one) => words && one.textContent.includes(words))
  dialog?.querySelector('.p-dialog-close-button, button[aria-label^="Close"]')?.click()
  // It has none of the words: it advises to check the node's inputs.
  const card = document.querySelector('[data-testid="error-overlay-dismiss"]')
  card?.click()
  return Boolean(dialog ?? card)
}

function sentence(text) {
  const trimmed = (text ?? '').trim()
  return trimmed && !/[.!?…]$/.test(trimmed) ? `${trimmed}.` : trimmed
}

function firstWords(text) {
  const line = text.trim().split('\n')[0]
  return line.length > 160 ? `${line.slice(0, 157)}…` : line
}
