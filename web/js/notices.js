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
 * @param {() => void} context.openKey Opens the key dialog.
 * @param {(message: string) => void} context.askLimit Asks whether to send more than the limit of a day.
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
     * ComfyUI shows the error itself, so nothing is said twice.
     *
     * @param {object} event ComfyUI's `execution_error`.
     */
    onError(event) {
      const type = String(event.exception_type ?? '')
      if (type.endsWith(NO_KEY) && !document.querySelector('.xalora-key')) openKey()
      if (type.endsWith(LIMIT_REACHED)) askLimit(firstWords(event.exception_message ?? ''))
    }
  }
}

function sentence(text) {
  const trimmed = (text ?? '').trim()
  return trimmed && !/[.!?…]$/.test(trimmed) ? `${trimmed}.` : trimmed
}

function firstWords(text) {
  const line = text.trim().split('\n')[0]
  return line.length > 160 ? `${line.slice(0, 157)}…` : line
}
