/**
 * The line on a node: what its tasks do while it runs, and afterwards who made the result, or why there is none.
 *
 * It is a widget of the pack's own, since ComfyUI's progress text goes when a prompt ends, and is not shown by all
 * renderers. It is never saved.
 */

import { make, setAttribute, setText } from './dom.js'
import { findNode, inFirstNodes2, isXalora } from './nodes.js'

const NAME = 'xalora_line'
/** As in the style sheet: of a line, of the padding above and below, and about of a letter. */
const LINE = 16
const PADDING = 4
const LETTER = 6
const SIDES = 28
const MOST_LINES = 3

/** The nodes whose line is not the last one yet, and whether a prompt may be running. */
const live = new Set()
let runs = true

/** A prompt begins. */
export function onStart() {
  runs = true
}

/** A prompt has ended: its nodes have their last lines. */
export function onEnd() {
  runs = false
  live.clear()
}

/**
 * The connection to ComfyUI is back. Where it runs nothing, it has died or ended meanwhile, and no line comes any
 * more for what was running.
 *
 * @param app ComfyUI's `app`.
 * @param api ComfyUI's `api`.
 * @param {string} text The last line of those nodes.
 */
export async function onReconnected(app, api, text) {
  const { queue_running: running } = await (await api.fetchApi('/queue')).json()
  if (running.length) return
  for (const id of [...live]) showLine(app, { node_id: id, text })
  onEnd()
}

/** Give a new node its line, still empty, where it would not be shown later. */
export function prepareLine(node) {
  if (isXalora(node) && inFirstNodes2()) addWidget(node)
}

/** Show this text on the node, if it is in the open workflow. */
export function showLine(app, { node_id: id, text, graph }) {
  if (graph && graph !== (app.rootGraph ?? app.graph)?.id) return
  if (runs) live.add(id)
  const node = findNode(app, id)?.node
  if (!node) return
  const element = (node.widgets?.find(({ name }) => name === NAME) ?? addWidget(node)).element
  setText(element, text)
  setAttribute(element, 'title', text)
  grow(node)
  app.canvas?.setDirty(true, true)
}

function addWidget(node) {
  const element = make('div', { class: 'xalora xalora-node-line', role: 'status' })
  const height = () => {
    const needed = Math.ceil((element.textContent.length * LETTER) / (node.size[0] - SIDES))
    return PADDING + LINE * Math.min(MOST_LINES, Math.max(2, needed))
  }
  const widget = node.addDOMWidget(NAME, NAME, element, {
    serialize: false,
    hideOnZoom: false,
    // ComfyUI's usual one is as high as a line.
    margin: 0,
    getMinHeight: height,
    getMaxHeight: height
  })
  // The option keeps it from prompts, and this from workflow files.
  widget.serialize = false
  return widget
}

/** Make the node as large as its line needs it. */
function grow(node) {
  const [width, height] = node.computeSize()
  if (width > node.size[0] || height > node.size[1]) node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)])
}
