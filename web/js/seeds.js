/**
 * Keeps the seeds of a run that ended without its results.
 *
 * ComfyUI moves a seed on as soon as it has queued a prompt. Run after a failure would then send, and pay for, other
 * images than those that are finished. So the widgets that ComfyUI moves on get back the values of the run that ended
 * last, and their control is set to "fixed".
 */

import { isXalora, nodeAt } from './nodes.js'

const FIXED = 'fixed'
const REMEMBERED = 50

/** Have a new node's seed stay as it is after a run. */
export function fixSeeds(node) {
  if (!isXalora(node)) return
  for (const widget of node.widgets ?? []) {
    const control = controlOf(widget)
    if (control) control.value = FIXED
  }
}

/**
 * @param app ComfyUI's `app`.
 * @param api ComfyUI's `api`.
 */
export function createSeedKeeper(app, api) {
  /** The values that queuing has left, by graph and place: any other is the user's. */
  const left = new Map()
  /** Ended prompts of workflows that are not open, in their order. */
  let waiting = []

  /** Note the values that ComfyUI has moved on; call it when prompts are queued. */
  function onQueued() {
    for (const [id, node] of allNodes(app.rootGraph ?? app.graph)) {
      for (const { name } of node.widgets ?? []) {
        const place = placeOf(app, id, name)
        if (place) left.set(keyOf(app, id, name), place.widget.value)
      }
    }
  }

  /** Write back the seeds of a prompt that failed or was canceled. */
  async function onEnded({ prompt_id: promptId }) {
    const ended = await queuedPrompt(api, promptId).catch((error) => console.warn('[Xalora]', error.message))
    if (!ended) return
    const values = controlledInputs(ended.prompt)
    if (values.length === 0) return
    waiting = [...waiting, { values, workflow: ended.workflow }].slice(-REMEMBERED)
    onOpened()
  }

  /** Write back what has waited for the workflow that is open now. */
  function onOpened() {
    const open = (app.rootGraph ?? app.graph)?.id
    const isOpen = ({ workflow }) => workflow === undefined || workflow === open
    for (const { values } of waiting.filter(isOpen)) for (const value of values) restore(value)
    waiting = waiting.filter((ended) => !isOpen(ended))
  }

  function restore({ id, type, name, value }) {
    const node = nodeAt(app, id)?.node
    const place = node && (node.comfyClass ?? node.type) === type ? placeOf(app, id, name) : null
    if (!place) return
    const key = keyOf(app, id, name)
    const current = place.widget.value
    const isEdited = left.has(key) && current !== left.get(key) && current !== value
    if (isEdited) return
    write(place.widget, value)
    write(place.control, FIXED)
    left.set(key, value)
    app.canvas?.setDirty(true, true)
  }

  return { onQueued, onEnded, onOpened }
}

/** The inputs that a Xalora node of the prompt gets, by itself or through other nodes, as they were sent. */
function controlledInputs(prompt) {
  const found = new Set()
  const visit = (id) => {
    if (found.has(id) || !prompt[id]) return
    found.add(id)
    for (const value of Object.values(prompt[id].inputs)) if (Array.isArray(value)) visit(String(value[0]))
  }
  for (const [id, node] of Object.entries(prompt)) if (node.class_type.startsWith('Xalora')) visit(id)
  return [...found].flatMap((id) =>
    Object.entries(prompt[id].inputs)
      .filter(([, value]) => ['number', 'string'].includes(typeof value))
      .map(([name, value]) => ({ id, type: prompt[id].class_type, name, value }))
  )
}

/** A prompt as it was queued, `{prompt, workflow}`; null where the server no longer knows it. */
async function queuedPrompt(api, promptId) {
  // In this order: an ended prompt goes from the queue to the history in one step.
  const queue = await (await api.fetchApi('/queue', { cache: 'no-store' })).json()
  let item = queue.queue_running.find((running) => running[1] === promptId)
  if (!item) {
    const history = await (await api.fetchApi(`/history/${promptId}`, { cache: 'no-store' })).json()
    item = history[promptId]?.prompt
  }
  return item ? { prompt: item[2], workflow: item[3]?.extra_pnginfo?.workflow?.id } : null
}

/**
 * The widget from which an input gets its value, with its control; null where ComfyUI does not move it on. It may
 * stand on a primitive node, or on the node of a subgraph.
 */
function placeOf(app, executionId, name) {
  let found = nodeAt(app, executionId)
  let widget = found?.node.widgets?.find((each) => each.name === name)
  if (!widget) return null
  let control = controlOf(widget)
  let path = String(executionId).split(':')
  while (found) {
    const { node, graph } = found
    const link = node.inputs?.find((input) => (input.widget?.name ?? null) === widget.name)?.link
    const origin = link === null || link === undefined ? null : graph.getLink?.(link) ?? graph.links?.[link]
    if (!origin) break
    const primitive = graph.getNodeById(origin.origin_id)
    if (primitive) {
      widget = primitive.isVirtualNode ? primitive.widgets?.[0] : null
      control = widget && controlOf(widget)
      break
    }
    // From the subgraph's own input, which is a widget on the subgraph's node.
    path = path.slice(0, -1)
    found = path.length ? nodeAt(app, path.join(':')) : null
    const input = found?.node.inputs?.[origin.origin_slot]
    const outer = input && found.node.widgets?.find((each) => each.name === (input.widget?.name ?? input.name))
    if (!outer) break
    widget = outer
    control = controlOf(outer) ?? control
  }
  return widget && control ? { widget, control } : null
}

/** The widget that says what ComfyUI does with another one's value after a run. */
function controlOf(widget) {
  return widget.linkedWidgets?.find(({ options }) => options?.values?.includes?.(FIXED)) ?? null
}

function write(widget, value) {
  if (widget.value === value) return
  widget.value = value
  widget.callback?.(value)
}

function keyOf(app, executionId, name) {
  return `${(app.rootGraph ?? app.graph).id} ${executionId} ${name}`
}

/** `[execution id, node]` of all nodes, those in subgraphs too. */
function* allNodes(graph, prefix = '') {
  for (const node of graph?.nodes ?? []) {
    yield [`${prefix}${node.id}`, node]
    if (node.subgraph) yield* allNodes(node.subgraph, `${prefix}${node.id}:`)
  }
}
