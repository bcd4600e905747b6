/** Finds, shows and adds nodes on the canvas, with either of ComfyUI's renderers. */

/** `{node, graph}` of the node with this execution id (`7`, or `3:7` inside of a subgraph) in the open workflow. */
export function nodeAt(app, executionId) {
  let graph = app.rootGraph ?? app.graph
  let found = null
  for (const part of String(executionId ?? '').split(':')) {
    const node = graph?.getNodeById(Number(part)) ?? graph?.getNodeById(part)
    if (!node) return null
    found = { node, graph }
    graph = node.subgraph
  }
  return found
}

/** Whether it is a node of this pack. */
export function isXalora(node) {
  return String(node?.comfyClass ?? node?.type ?? '').startsWith('Xalora')
}

/** The minor version of ComfyUI's frontend from which on its Nodes 2.0 have what `inFirstNodes2` is asked for. */
const WITH_LATER_NODES_2 = 49

/**
 * Whether nodes are drawn by the first Nodes 2.0, of ComfyUI 0.3.75: they leave out widgets that come after a value
 * was changed, and know no advanced ones.
 */
export function inFirstNodes2() {
  const [, minor] = (window.__COMFYUI_FRONTEND_VERSION__ ?? '').split('.')
  return Boolean(window.LiteGraph?.vueNodesMode) && Number(minor) < WITH_LATER_NODES_2
}

/** As `nodeAt`, if it is a Xalora node. */
export function findNode(app, executionId) {
  const found = nodeAt(app, executionId)
  return isXalora(found?.node) ? found : null
}

/** The node that a task came from, if its workflow is open: the same id is another node in another workflow. */
export function nodeOf(app, row) {
  if (!row.node || !row.graph || row.graph !== (app.rootGraph ?? app.graph)?.id) return null
  const found = findNode(app, row.node)
  return (found?.node.comfyClass ?? found?.node.type) === row.node_class ? found : null
}

/** Select the node of a task and center the canvas on it; false where it is not in the open workflow. */
export function showNode(app, row) {
  const found = nodeOf(app, row)
  const canvas = app.canvas
  if (!found || !canvas) return false
  if (canvas.graph !== found.graph) canvas.setGraph(found.graph)
  canvas.deselectAll()
  canvas.selectNode(found.node)
  canvas.centerOnNode(found.node)
  return true
}

/**
 * Hide a Xalora node's advanced widgets until the user asks for them. The canvas heeds this property alone, which
 * ComfyUI sets in none of its versions; Nodes 2.0 reads the input's option itself, but for the first one.
 */
export function hideAdvanced(node) {
  if (!isXalora(node)) return
  const advanced = advancedOf(node)
  if (!advanced.length) return
  for (const widget of advanced) {
    widget.advanced = true
    // The canvas keeps room for hidden widgets too: a row, less its gap of 4.
    widget.computeSize = (width) => [width, node.showAdvanced ? window.LiteGraph.NODE_WIDGET_HEIGHT : -4]
  }
  node.setSize([node.size[0], node.computeSize()[1]])
  hideInFirstNodes2(node)
  const { onConfigure } = node
  node.onConfigure = (...args) => {
    onConfigure?.apply(node, args)
    showLinked(node)
    hideInFirstNodes2(node)
  }
}

/** Show the advanced widgets of a loaded node where a link goes to one: nobody would find it otherwise. */
function showLinked(node) {
  if (node.showAdvanced) return
  const advanced = new Set(advancedOf(node).map((widget) => widget.name))
  if (!(node.inputs ?? []).some((input) => input.link != null && advanced.has(input.widget?.name))) return
  node.showAdvanced = true
  node.expandToFitContent?.()
}

/** Whether `toggleAdvanced` has to be offered for what is selected: elsewhere ComfyUI does. */
export function lacksAdvanced(item) {
  return inFirstNodes2() && hasAdvanced(item)
}

/** Show or hide the advanced widgets of the selected nodes. */
export function toggleAdvanced(app) {
  for (const node of Object.values(app.canvas?.selected_nodes ?? {}).filter(hasAdvanced)) node.toggleAdvanced()
  if (!inFirstNodes2()) return
  // It looks at the options of widgets only when a graph is loaded, as undo does too.
  const graph = app.rootGraph ?? app.graph
  void app.loadGraphData(graph.serialize(), false, false, app.extensionManager.workflow?.activeWorkflow)
}

function hasAdvanced(node) {
  return isXalora(node) && advancedOf(node).length > 0
}

function advancedOf(node) {
  return (node.widgets ?? []).filter((widget) => widget.options?.advanced)
}

function hideInFirstNodes2(node) {
  if (!inFirstNodes2()) return
  for (const widget of advancedOf(node)) widget.options = { ...widget.options, hidden: !node.showAdvanced }
}

/** Add a node of this type in the middle of the canvas, select it and return it. */
export function addNode(app, type) {
  const node = window.LiteGraph?.createNode(type)
  const canvas = app.canvas
  if (!node || !canvas) return null
  const { offset, scale } = canvas.ds
  const view = canvas.canvas.getBoundingClientRect()
  node.pos = [view.width / 2 / scale - offset[0] - node.size[0] / 2, view.height / 2 / scale - offset[1] - node.size[1] / 2]
  canvas.graph.add(node)
  canvas.deselectAll()
  canvas.selectNode(node)
  return node
}

const TITLE_HEIGHT = 30
/** The free border around a graph in view, in pixels; ComfyUI's bars lie over the upper and the lower one. */
const BORDER = { top: 60, bottom: 60, sides: 20 }

/** Show the whole open workflow in that part of the canvas that no sidebar covers: ComfyUI fits it under them. */
export function fitBesideSidebars(app) {
  const { canvas } = app
  const nodes = canvas?.graph?.nodes ?? []
  if (!nodes.length) return
  const left = Math.min(...nodes.map(({ pos }) => pos[0]))
  const top = Math.min(...nodes.map(({ pos }) => pos[1])) - TITLE_HEIGHT
  const width = Math.max(...nodes.map(({ pos, size }) => pos[0] + size[0])) - left
  const height = Math.max(...nodes.map(({ pos, size }) => pos[1] + size[1])) - top
  const whole = canvas.canvas.getBoundingClientRect()
  const free = document.querySelector('.graph-canvas-panel')?.getBoundingClientRect() ?? whole
  const room = { width: free.width - 2 * BORDER.sides, height: free.height - BORDER.top - BORDER.bottom }
  if (room.width <= 0 || room.height <= 0) return
  const { ds } = canvas
  ds.scale = Math.min(1, room.width / width, room.height / height)
  ds.offset[0] = (free.left - whole.left + free.width / 2) / ds.scale - (left + width / 2)
  ds.offset[1] = (free.top - whole.top + BORDER.top + room.height / 2) / ds.scale - (top + height / 2)
  canvas.setDirty(true, true)
}

/** ComfyUI's node that loads a file of this kind, and the widget that names the file. */
const LOADERS = { image: ['LoadImage', 'image'], video: ['LoadVideo', 'file'] }

/** Put a result into ComfyUI's input folder, and a Load Image or Load Video node with it on the canvas. */
export async function useAsInput(app, api, url, name, kind) {
  const result = await fetch(url)
  if (!result.ok) throw new Error(`${name}: ${result.status}`)
  const body = new FormData()
  body.append('image', await result.blob(), name)
  const stored = await api.fetchApi('/upload/image', { method: 'POST', body })
  if (!stored.ok) throw new Error(`${name}: ${stored.status}`)
  const file = (await stored.json()).name
  const [type, input] = LOADERS[kind]
  await app.refreshComboInNodes?.()
  const node = addNode(app, type)
  const widget = node?.widgets?.find((one) => one.name === input)
  if (!widget) return
  if (Array.isArray(widget.options?.values) && !widget.options.values.includes(file)) widget.options.values.push(file)
  widget.value = file
  widget.callback?.(file)
}
