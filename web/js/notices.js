/** Toasts for prompts that fell back or failed: one for each prompt and kind. */

const LIFE = 12000
const REMEMBERED = 200

/**
 * @param {object} context
 * @param {Function} context.t Looks up texts.
 * @param {(message: object) => void} context.toast Shows one of ComfyUI's toasts.
 */
export function createNotices({ t, toast }) {
  const shown = new Set()

  function once(kind, promptId, message) {
    const key = `${kind} ${promptId}`
    if (shown.has(key)) return
    shown.add(key)
    if (shown.size > REMEMBERED) shown.delete(shown.values().next().value)
    toast({ life: LIFE, ...message })
  }

  return {
    /**
     * @param {{prompt_id: string, reason: string, money: string, engine: string, count: number, total: number}} event
     *   The `xalora.fallback` event.
     */
    onFallback(event) {
      once('fallback', event.prompt_id, {
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

    /** @param {object} event ComfyUI's `execution_error`. */
    onError(event) {
      if (!String(event.node_type ?? '').startsWith('Xalora')) return
      once('error', event.prompt_id, {
        severity: 'error',
        summary: t('notice.failed', { node: event.node_id }),
        detail: firstWords(event.exception_message ?? '')
      })
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
