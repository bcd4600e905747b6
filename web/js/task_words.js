/** What to say about a task: pure functions of its row. */

import { ago, bytes, duration, elapsed, span } from './format.js'

const KINDS = { upscaler: 'upscale', txt2img: 'image', txt2vid: 'video' }
const REMOTE = 'xalora'

/** Which icon stands for a task without a picture. */
export function iconOf(row) {
  return { upscaler: 'arrow-up-right', txt2img: 'image', txt2vid: 'video' }[row.type] ?? 'cloud'
}

/** What kind of work it is: `Upscale`, `Text to video`, or the workflow's own name. */
export function kindOf(row, t) {
  const kind = KINDS[row.type]
  return kind ? t(`kind.${kind}`) : row.workflow || row.type
}

/** The task's title: its prompt, or what is done to which image. */
export function titleOf(row, t) {
  const label = row.label.trim()
  if (!label || label === row.type) return kindOf(row, t)
  return label.charAt(0).toUpperCase() + label.slice(1)
}

/** How it stands, in a word or two. */
export function stateOf(row, t) {
  switch (row.state) {
    case 'submitted':
      if (!row.status || row.status === 'waiting') return t('state.waiting')
      return row.status === 'running' ? t('state.running') : t('state.other', { status: row.status })
    case 'finished':
      return row.attended ? t('state.fetching') : t('state.ready')
    case 'kept':
      return row.evicted ? t('state.evicted') : t('state.kept')
    default:
      if (settledHere(row)) return t('state.madeHere')
      return t(`state.${row.state}`)
  }
}

/** Whether an engine of this machine did the work in the network's stead. */
export function madeHere(row) {
  return row.group === 'failed' && Boolean(row.engine) && row.engine !== REMOTE
}

/** Whether that settles it: a task that may be charged stays a matter to look into. */
function settledHere(row) {
  return madeHere(row) && row.state !== 'unknown'
}

/** Who made the result. */
export function makerOf(row, t) {
  if (!row.engine) return ''
  if (row.engine !== REMOTE) return t('maker.here', { engine: row.engine })
  return row.miner ? t('maker.miner', { miner: row.miner }) : t('maker.network')
}

/** How bad it is: `busy`, `good`, `bad`, `idle` (nobody acts), or `note` (ended without a result, and rightly). */
export function toneOf(row) {
  if (row.group === 'done') return 'good'
  if (row.group === 'active') return row.attended || row.state === 'cancel_pending' ? 'busy' : 'idle'
  return row.state === 'canceled' || row.state === 'not_sent' || settledHere(row) ? 'note' : 'bad'
}

/** How far it is, 0 to 1; null where nobody can tell. */
export function progressOf(row, now) {
  if (row.state === 'finished') return 0.97
  if (row.state !== 'submitted' || !row.usual || !row.submitted_at) return null
  // Past what is usual it waits just short of the end, for who knows how long.
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
    const state = settledHere(row) ? '' : stateOf(row, t)
    return [state, t('state.madeHereBy', { engine: row.engine }), reason].filter(Boolean).join(' · ')
  }
  if (!reason) return stateOf(row, t)
  return row.state === 'failed' || row.state === 'not_sent' ? reason : `${stateOf(row, t)} · ${reason}`
}

function activeLine(row, now, t) {
  if (!row.attended && row.state !== 'cancel_pending') {
    return row.error ? `${stateOf(row, t)} · ${row.error}` : `${stateOf(row, t)} · ${t('state.unattended')}`
  }
  // What is usual is counted from the submission on, and so is what is told beside it.
  const began = row.status === 'running' && !row.usual ? row.started_at : row.submitted_at
  const parts = [stateOf(row, t)]
  if (row.state === 'submitted' && began) {
    const since = elapsed(now - began, t)
    parts.push(row.usual ? t('state.usually', { since, usual: span(row.usual, t) }) : since)
  }
  return parts.join(' · ')
}

/** When it was asked for, told by how long ago. */
export function ageOf(row, now, t) {
  return ago(Math.max(0, now - (row.ended_at ?? row.created_at)), t)
}

/** All that is known, as `[name, value]` pairs of text. */
export function factsOf(row, t, locale) {
  const time = (seconds) => new Date(seconds * 1000).toLocaleString(locale)
  const between = (from, to) => (from && to && to > from ? duration(to - from, t) : '')
  const facts = [
    ['work', [kindOf(row, t), row.workflow ? t('fact.workflowId', { id: row.workflow }) : ''].filter(Boolean).join(' · ')],
    ['maker', row.group === 'done' || madeHere(row) ? makerOf(row, t) : ''],
    ['device', row.device ?? ''],
    ['created', time(row.created_at)],
    ['waited', between(row.submitted_at, row.started_at)],
    ['ran', between(row.started_at, row.ended_at)],
    ['total', row.seconds !== null ? duration(row.seconds, t) : ''],
    ['usual', row.usual && row.group === 'active' ? span(row.usual, t) : ''],
    ['size', row.size ? bytes(row.size) : ''],
    ['taskId', row.task_id ?? ''],
    ['jobId', row.job_id]
  ]
  return facts.filter(([, value]) => value)
}
