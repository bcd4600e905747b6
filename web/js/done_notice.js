/**
 * Tells a user who looks at another tab that a long run with Xalora nodes has ended: in the tab's title, and as a
 * notification where the user has allowed those to ComfyUI's page before. Permission is never asked for.
 */

import { duration } from './format.js'

const LONG_SECONDS = 20

/**
 * @param {Function} t Looks up texts.
 * @param {() => number} now Seconds on any clock.
 */
export function createDoneNotice(t, now = () => performance.now() / 1000) {
  /** What runs: from the first prompt's start until the queue is empty. */
  let run = null
  let watching = null
  let notification = null

  function show({ began, failed }) {
    const title = t(failed ? 'notice.runFailed' : 'notice.runDone')
    markTitle(`${title}: `)
    if (window.Notification?.permission !== 'granted') return
    notification = new Notification(`Xalora: ${title}`, { body: t('notice.runTook', { time: duration(now() - began, t) }), tag: 'xalora' })
    notification.onclick = () => window.focus()
  }

  /** ComfyUI writes the title too, so the mark is put before whatever it writes. */
  function markTitle(mark) {
    const put = () => {
      if (!document.title.startsWith(mark)) document.title = mark + document.title
    }
    watching?.unmark()
    const observer = new MutationObserver(put)
    watching = {
      unmark() {
        observer.disconnect()
        if (document.title.startsWith(mark)) document.title = document.title.slice(mark.length)
        watching = null
      }
    }
    put()
    observer.observe(document.head, { subtree: true, childList: true, characterData: true })
  }

  document.addEventListener('visibilitychange', () => {
    if (document.hidden) return
    watching?.unmark()
    notification?.close()
    notification = null
  })

  return {
    /** A prompt of this window has started. */
    onStart() {
      run ??= { began: now(), isOurs: false, failed: false, interrupted: false }
    },

    /** A Xalora node of this window's prompt works. */
    onOurs() {
      if (run) run.isOurs = true
    },

    /** @param {'execution_success'|'execution_error'|'execution_interrupted'} how A prompt of this window has ended. */
    onEnd(how) {
      if (!run) return
      run.failed ||= how === 'execution_error'
      run.interrupted = how === 'execution_interrupted'
    },

    /** @param {number|undefined} remaining How many prompts are running or queued. */
    onQueue(remaining) {
      if (remaining !== 0 || !run) return
      const ended = run
      run = null
      // Whoever has canceled it knows.
      if (ended.isOurs && !ended.interrupted && document.hidden && now() - ended.began >= LONG_SECONDS) show(ended)
    }
  }
}
