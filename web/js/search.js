/** What a search finds in words that only the page knows: states and kinds of tasks, in the user's language. */

/** The server's names, and a text that shows each. */
const SHOWN = [
  ['prepared', 'state.prepared'],
  ['sending', 'state.sending'],
  ['waiting', 'state.waiting'],
  ['running', 'state.running'],
  ['cancel_requested', 'state.cancel_requested'],
  ['fetching', 'state.fetching'],
  ['fetching', 'state.ready'],
  ['kept', 'state.kept'],
  ['evicted', 'state.evicted'],
  ['failed', 'state.failed'],
  ['canceled', 'state.canceled'],
  ['not_sent', 'state.not_sent'],
  ['unknown', 'state.unknown'],
  ['made_here', 'state.madeHere'],
  ['upscaler', 'kind.upscale'],
  ['txt2img', 'kind.image'],
  ['txt2vid', 'kind.video'],
  ['miner', 'maker.miner']
]

/**
 * For each word of the search that is part of such a text, the names.
 *
 * @param {string} text
 * @param {Function} t Looks up texts.
 * @returns {Record<string, string[]>}
 */
export function namedIn(text, t) {
  const found = {}
  for (const word of text.split(/\s+/).filter(Boolean)) {
    const wanted = word.toLowerCase()
    const names = SHOWN.filter(([, key]) => t(key).replace(/\{\w+\}/g, '').toLowerCase().includes(wanted)).map(([name]) => name)
    if (names.length) found[word] = [...new Set(names)]
  }
  return found
}
