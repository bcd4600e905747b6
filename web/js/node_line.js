/**
 * The line on a node: what its tasks do while it runs, and afterwards who made the result, or why there is none.
 *
 * It is a widget of the pack's own, since ComfyUI's progress text goes when a prompt ends, and is not shown by all
 * renderers. It is never saved.
 */

import { make, setAttribute, setText } from './dom.js'
import { findNode } from './nodes.js'

const NAME = 'xalora_line'
const HEIGHT = 36

/** Show this text on the node, if it is in the open workflow. */
export function showLine(app, { node_id: id, text }) {
  const node = findNode(app, id)?.node
  if (!node) return
  const element = (node.widgets?.find(({ name }) => name === NAME) ?? addWidget(node)).element
  setText(element, text)
  setAttribute(element, 'title', text)
  app.canvas?.setDirty(true, true)
}

function addWidget(node) {
  const element = make('div', { class: 'xalora xalora-node-line', role: 'status' })
  const widget = node.addDOMWidget(NAME, NAME, element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => HEIGHT,
    getMaxHeight: () => HEIGHT
  })
  // The option keeps it from prompts, and this from workflow files.
  widget.serialize = false
  const [width, height] = node.computeSize()
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)])
  return widget
}
