/** The texts about a task, as pure functions of its row. */

import { ago, bytes, duration, elapsed, span } from './format.js'

const KINDS = { upscaler: 'upscale', txt2img: 'image', txt2vid: 'video' }
const REMOTE = 'xalora'

/** The icon of a task without a picture. */
export function iconOf(row) {
  return { upscaler: 'arrow-up-right', txt2img: 'image', txt2vid: 'video' }[row.type] ?? 'cloud'
}

/** The type of task: `Upscale`, `Text to video`, or the workflow's name. */
export function kindOf(row, t) {
  const kind = KINDS[row.type]
  return kind ? t(`kind.${kind}`) : row.workflow || row.type
}

/** The title: the prompt, or the operation and its image. */
export function titleOf(row, t) {
  const label = row.label.trim()
  if (!label || label === row.type) return kindOf(row, t)
  return capitalized(label)
}

/** The title of what many tasks make together. */
export function wholeTitle(whole) {
  return capitalized(whole.label)
}

/** The title of a part, where the whole's stands above it: `Frame 7`. */
export function partTitle(row, t) {
  const before = `${row.whole.label}, `
  return row.label.startsWith(before) ? capitalized(row.label.slice(before.length)) : titleOf(row, t)
}

function capitalized(text) {
  return text.charAt(0).toUpperCase() + text.slice(1)
}

/** How many parts of a whole are under way, done, and without a result. */
export function partsLine(parts, t) {
  return ['active', 'done', 'failed']
    .filter((group) => parts[group])
    .map((group) => t(`whole.${group}`, { count: parts[group] }))
    .join(' · ')
}

/** A name for a result's file that tells what it shows: its title, and a number where there are several. */
export function fileNameOf(row, index, t) {
  const type = row.files[index].name.match(/\.\w+$/)?.[0] ?? ''
  const words = titleOf(row, t)
    .normalize('NFC')
    .replace(/[^\p{L}\p{N}]+/gu, ' ')
    .trim()
    .slice(0, 60)
    .trim()
  const number = row.files.length > 1 ? ` ${index + 1}` : ''
  return `${words || kindOf(row, t)}${number} (${row.id})${type}`
}

/** The state, in a word or two. */
export function stateOf(row, t) {
  switch (row.state) {
    case 'submitted':
      if (!row.status || row.status === 'waiting') return t('state.waiting')
      return row.status === 'running' ? t('state.running') : t('state.other', { status: row.status })
    case 'finished':
      return row.leased ? t('state.fetching') : t('state.ready')
    case 'kept':
      return row.evicted ? t('state.evicted') : t('state.kept')
    default:
      if (isSettledHere(row)) return t('state.madeHere')
      return t(`state.${row.state}`)
  }
}

/** Whether this machine did the task in place of the network. */
export function madeHere(row) {
  return row.group === 'failed' && Boolean(row.engine) && row.engine !== REMOTE
}

/** Whether nothing is left to do: a task with an unknown outcome may still be charged. */
function isSettledHere(row) {
  return madeHere(row) && row.state !== 'unknown'
}

/** The maker of the result. */
export function makerOf(row, t) {
  if (!row.engine) return ''
  if (row.engine !== REMOTE) return t('maker.here', { engine: row.engine })
  return row.miner ? t('maker.miner', { miner: row.miner }) : t('maker.network')
}

/** The tone: `busy`, `good`, `bad`, `idle` (nothing waits for it), or `note` (no result, as expected). */
export function toneOf(row) {
  if (row.group === 'done') return 'good'
  if (row.group === 'active') return row.leased || row.state === 'cancel_requested' ? 'busy' : 'idle'
  return row.state === 'canceled' || row.state === 'not_sent' || isSettledHere(row) ? 'note' : 'bad'
}

/** The estimated progress, 0 to 1, or null. */
export function progressOf(row, now) {
  if (row.state === 'finished') return 0.97
  if (row.state !== 'submitted' || !row.usual || !row.submitted_at) return null
  // A task that takes longer than usual stays at 0.95.
  return Math.min(0.95, Math.max(0, now - row.submitted_at) / Math.max(row.usual[1], 0.5))
}

/** The line under the title. */
export function lineOf(row, now, t) {
  if (row.group === 'active') return activeLine(row, now, t)
  if (row.group === 'done') {
    const parts = []
    if (row.seconds !== null) parts.push(duration(row.seconds, t))
    if (row.size) parts.push(bytes(row.size))
    const maker = makerOf(row, t)
    parts.push(row.evicted ? t('state.evicted') : maker)
    return parts.filter(Boolean).join(' · ')
  }
  const reason = (row.error ?? '').trim()
  if (madeHere(row)) {
    const state = isSettledHere(row) ? '' : t('state.unknownLine')
    return [state, t('state.madeHereBy', { engine: row.engine }), reason].filter(Boolean).join(' · ')
  }
  // The money first: a narrow sidebar cuts the rest.
  if (row.state === 'unknown') return t('state.unknownLine')
  if (row.state === 'canceled') return t('state.canceledLine')
  if (row.state === 'not_sent') return [t('state.notSentLine'), reason].filter(Boolean).join(' · ')
  if (!reason) return stateOf(row, t)
  return row.state === 'failed' ? reason : `${stateOf(row, t)} · ${reason}`
}

function activeLine(row, now, t) {
  if (!row.leased && row.state !== 'cancel_requested') {
    return row.error ? `${stateOf(row, t)} · ${row.error}` : `${stateOf(row, t)} · ${t('state.nobodyWaits')}`
  }
  // The usual duration counts from the submission, so the time beside it does too.
  const began = row.status === 'running' && !row.usual ? row.started_at : row.submitted_at
  const parts = [stateOf(row, t)]
  if (row.state === 'submitted' && began) {
    const since = elapsed(now - began, t)
    parts.push(row.usual ? t('state.usually', { since, usual: span(row.usual, t) }) : since)
  }
  return parts.join(' · ')
}

/** The age of the task. */
export function ageOf(row, now, t) {
  return ago(Math.max(0, now - (row.ended_at ?? row.created_at)), t)
}

/** A size in pixels: `960 x 640`, `848 x 480, 73 frames, 24 fps`. */
export function sizeOf(size, t) {
  if (!size) return ''
  const plain = `${size.width} x ${size.height}`
  if (size.fps) return t('size.video', { size: plain, frames: size.frames, fps: size.fps })
  return size.frames > 1 ? t('size.frames', { size: plain, frames: size.frames }) : plain
}

/**
 * All known facts, as `[name, value]` pairs of text.
 *
 * @param {object|null} details The answer of `Service.details`, where it is there.
 * @param {number} file The index of the shown file.
 */
export function factsOf(row, details, file, t, locale) {
  const about = (cost) => (cost ? t('fact.about', { cost }) : '')
  const time = (seconds) => new Date(seconds * 1000).toLocaleString(locale)
  // Those of the request to the network, and not of what this machine has made.
  const ended = madeHere(row) ? null : row.ended_at
  const between = (from, to) => (from && to && to > from ? duration(to - from, t) : '')
  const facts = [
    ['work', [kindOf(row, t), row.workflow ? t('fact.workflowId', { id: row.workflow }) : ''].filter(Boolean).join(' · ')],
    ['seed', details?.seed ?? ''],
    ['pixels', sizeOf(details?.sizes[file], t)],
    ['inputs', (details?.inputs ?? []).map(([name, value]) => `${name} ${value}`).join(', ')],
    ['cost', about(details?.cost)],
    ['run', details?.run && details.run.tasks > 1 ? [t('fact.runTasks', { count: details.run.tasks }), about(details.run.cost)].filter(Boolean).join(', ') : ''],
    ['maker', row.group === 'done' || madeHere(row) ? makerOf(row, t) : ''],
    ['device', row.device ?? ''],
    ['created', time(row.created_at)],
    ['ended', ended ? time(ended) : ''],
    ['waited', between(row.submitted_at, row.started_at)],
    ['ran', between(row.started_at, ended)],
    ['total', ended && row.seconds !== null ? duration(row.seconds, t) : ''],
    ['usual', row.usual && row.group === 'active' ? span(row.usual, t) : ''],
    ['size', row.size ? bytes(row.size) : ''],
    ['taskId', row.task_id ?? ''],
    ['jobId', row.job_id]
  ]
  return facts.filter(([, value]) => value)
}
