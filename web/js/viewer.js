/** The dialog that shows one task: its result in full size, and all known facts. */

import { openDialog } from './dialog.js'
import { copyText, fill, fillAs, icon, iconButton, make, setText, textButton } from './dom.js'
import { pictureUrl } from './task_view.js'
import { factsOf, fileNameOf, iconOf, madeHere, stateOf, titleOf, toneOf } from './task_words.js'

const COPIED = { seed: 'copySeed', taskId: 'copyId', jobId: 'copyJobId' }

/**
 * @param {object} row
 * @param {object} context
 * @param {Function} context.t Looks up texts.
 * @param {string} context.locale
 * @param {import('./service.js').Service} context.service
 * @param {import('./store.js').TaskStore} context.store
 * @param {(row: object) => boolean} context.canShowNode
 * @param {object} context.actions As for a row of the list.
 * @param {(url: string, name: string, kind: string) => Promise<void>} context.useAsInput Puts a result into the open graph.
 * @param {(message: object) => void} context.toast
 */
export function openViewer(row, context) {
  const { t, service, store, actions } = context
  const stage = make('div', { class: 'xalora-stage' })
  const side = make('div', { class: 'xalora-viewer-side' })
  const position = make('span', { class: 'xalora-hint' })
  const parts = Array.from({ length: 4 }, () => make('div', { class: 'xalora-viewer-part' }))
  side.append(...parts)
  let file = 0
  let shown = null
  let details = null
  let looked = null

  const previous = iconButton('chevron-left', t('action.previous'), () => step(-1))
  const next = iconButton('chevron-right', t('action.next'), () => step(1))
  const dialog = openDialog(titleOf(row, t), {
    t,
    kind: 'xalora-viewer',
    body: [make('div', { class: 'xalora-viewer-main' }, stage, make('div', { class: 'xalora-viewer-steps' }, previous, position, next)), side]
  })
  dialog.addEventListener('keydown', (event) => {
    if (event.target.closest('input, textarea, video')) return
    if (event.key === 'ArrowLeft') step(-1)
    if (event.key === 'ArrowRight') step(1)
  })

  /** The ids of the fetched tasks, and the index of this one. */
  function neighbours() {
    const ids = store.sections.flatMap((section) => section.ids).filter((id) => store.rows.has(id))
    return { ids, at: ids.indexOf(row.id) }
  }

  function step(by) {
    if (file + by >= 0 && file + by < row.files.length) {
      file += by
      show()
      return
    }
    const { ids, at } = neighbours()
    const other = store.rows.get(ids[at + by])
    if (at < 0 || !other) return
    row = other
    file = by > 0 ? 0 : Math.max(0, row.files.length - 1)
    show()
  }

  function show() {
    const { ids, at } = neighbours()
    previous.disabled = at <= 0 && file === 0
    next.disabled = at < 0 || (at >= ids.length - 1 && file >= row.files.length - 1)
    position.textContent = row.files.length > 1 ? t('viewer.fileOf', { index: file + 1, count: row.files.length }) : ''
    const stamp = `${row.id} ${file} ${row.files.length} ${row.has_input}`
    if (stamp !== shown) {
      shown = stamp
      fill(stage, mediaOf(row, file, service, t))
    }
    setText(dialog.querySelector('.xalora-dialog-title'), titleOf(row, t))
    look()
    showSide()
  }

  /** Ask for what the row does not tell. */
  function look() {
    const stamp = `${row.id} ${row.version}`
    if (stamp === looked) return
    looked = stamp
    if (details?.of !== row.id) details = null
    const of = row.id
    service.details(row).then(
      (found) => {
        if (looked !== stamp) return
        details = { ...found, of }
        // The picture of the input is drawn after the request, whose last change may have come before.
        if (found.has_input && !row.has_input) {
          row = { ...row, has_input: true }
          store.put(row)
          show()
        }
        showSide()
      },
      (error) => console.warn('[Xalora]', error.message)
    )
  }

  /** Each part is built anew only where it has changed: new buttons would lose the focus. */
  function showSide() {
    const [state, prompt, facts, tools] = parts
    const advice = adviceFor(row, t)
    fillAs(state, [toneOf(row), stateOf(row, t), row.error, advice].join('\n'), () => [
      make('div', { class: 'xalora-state', data: { tone: toneOf(row) } }, make('span', { class: 'xalora-dot' }), make('span', { text: stateOf(row, t) })),
      row.error ? make('p', { class: 'xalora-reason', text: row.error }) : null,
      advice ? make('p', { class: 'xalora-hint', text: advice }) : null
    ])
    fillAs(prompt, details?.prompt ?? '', () =>
      details?.prompt
        ? [
            make('div', { class: 'xalora-prompt-head' }, make('span', { text: t('fact.prompt') }), iconButton('copy', t('action.copyPrompt'), copier(details.prompt))),
            make('p', { class: 'xalora-prompt', text: details.prompt })
          ]
        : []
    )
    const known = factsOf(row, details, file, t, context.locale)
    fillAs(facts, JSON.stringify(known), () => [make('dl', { class: 'xalora-facts' }, ...known.flatMap(([name, value]) => fact(name, value)))])
    const canShowNode = context.canShowNode(row)
    const signature = JSON.stringify([row.id, file, row.files, row.actions, row.wish, row.price, canShowNode])
    fillAs(tools, signature, () => [make('div', { class: 'xalora-buttons xalora-buttons-wrap' }, ...buttons(canShowNode))])
  }

  function buttons(canShowNode) {
    const media = row.files[file]
    /** Wishes cost a task, and can be taken back until the node runs. */
    const wish = (name, action, iconName) => {
      if (!row.actions.includes(name)) return null
      if (row.wish === name) return textButton(t('action.takeBack'), () => actions.takeBack(row), { iconName: 'undo' })
      const label = t(row.price ? `action.${name}For` : `action.${name}`, { cost: row.price })
      return textButton(label, () => action(row), { iconName })
    }
    return [
      media && link(t('action.open'), 'external-link', service.fileUrl(row, file), { target: '_blank', rel: 'noopener' }),
      media && link(t('action.download'), 'download', service.fileUrl(row, file), { download: fileNameOf(row, file, t) }),
      media && textButton(t('action.useAsInput'), putIntoGraph, { iconName: 'sign-in' }),
      canShowNode && textButton(t('action.showNode'), leaveTo(actions.showNode), { iconName: 'map-marker' }),
      row.actions.includes('take_up') && textButton(t('action.takeUp'), leaveTo(actions.takeUp), { iconName: 'user' }),
      wish('send_again', actions.sendAgain, 'send'),
      wish('make_again', actions.makeAgain, 'replay'),
      row.actions.includes('resume') && textButton(t('action.resume'), () => actions.resume(row), { iconName: 'refresh' }),
      row.actions.includes('cancel') && textButton(t('action.cancel'), () => actions.cancel(row), { kind: 'danger', iconName: 'times' }),
      row.actions.includes('forget') && textButton(t('action.forget'), leaveTo(actions.forget), { kind: 'danger', iconName: 'trash' })
    ].filter(Boolean)
  }

  function fact(name, value) {
    const copyable = name in COPIED
    return [
      make('dt', { text: t(`fact.${name}`) }),
      make(
        'dd',
        { class: copyable ? 'xalora-mono' : '' },
        make('span', { text: value, title: copyable ? value : null }),
        copyable ? iconButton('copy', t(`action.${COPIED[name]}`), copier(value)) : null
      )
    ]
  }

  function copier(value) {
    return async (event) => {
      const mark = event.currentTarget.firstChild
      await copyText(value)
      mark.className = 'pi pi-check'
      setTimeout(() => (mark.className = 'pi pi-copy'), 1200)
    }
  }

  async function putIntoGraph() {
    try {
      await context.useAsInput(service.fileUrl(row, file), fileNameOf(row, file, t), row.files[file].kind)
      dialog.close()
    } catch (error) {
      context.toast({ severity: 'error', summary: error.message, life: 10000 })
    }
  }

  function leaveTo(action) {
    return () => {
      dialog.close()
      action(row)
    }
  }

  function onChange() {
    const fresh = store.rows.get(row.id)
    // Unchanged rows are not shown again: new buttons would lose the focus.
    if (!fresh || (fresh.version === row.version && fresh.leased === row.leased && fresh.wish === row.wish && fresh.price === row.price)) return
    row = fresh
    show()
  }
  store.addEventListener('change', onChange)
  dialog.addEventListener('close', () => store.removeEventListener('change', onChange))
  show()
  return dialog
}

function mediaOf(row, index, service, t) {
  const media = row.files[index]
  if (media?.kind === 'video') {
    const video = make('video', { class: 'xalora-media', src: service.fileUrl(row, index), controls: true, loop: true, autoplay: true, playsinline: true })
    video.muted = true
    return video
  }
  if (media) {
    const after = make('img', { class: 'xalora-media', src: service.fileUrl(row, index), alt: titleOf(row, t) })
    return row.has_input ? compared(make('img', { class: 'xalora-media', src: service.inputUrl(row), alt: t('viewer.input') }), after, t) : after
  }
  const picture = pictureUrl(row, service)
  return make(
    'div',
    { class: 'xalora-stage-empty' },
    picture ? make('img', { class: 'xalora-media xalora-media-input', src: picture, alt: t('viewer.input') }) : icon(iconOf(row)),
    make('span', { class: 'xalora-hint', text: t(picture ? 'viewer.input' : whyNoMedia(row)) })
  )
}

function whyNoMedia(row) {
  if (row.group === 'active') return 'viewer.noResultYet'
  if (row.evicted) return 'state.evicted'
  return madeHere(row) ? 'viewer.notKept' : 'viewer.noResult'
}

/** Both pictures over each other, and a slider for how much of the first is seen. */
function compared(before, after, t) {
  before.classList.add('xalora-before')
  const pictures = make('div', { class: 'xalora-compared' }, after, before)
  const show = () => pictures.style.setProperty('--xalora-split', `${slider.value}%`)
  const slider = make('input', { type: 'range', class: 'xalora-split', min: 0, max: 100, value: 50, 'aria-label': t('viewer.compare'), on: { input: show } })
  // The dialog steps to another task by the arrow keys, which are the slider's here.
  slider.addEventListener('keydown', (event) => event.stopPropagation())
  show()
  pictures.append(slider)
  return pictures
}

function adviceFor(row, t) {
  const key = row.wish ? row.wish : row.state === 'unknown' ? 'unknown' : row.evicted ? (row.whole ? 'evictedPart' : 'evicted') : row.group === 'active' && !row.leased ? 'nobodyWaits' : null
  return key ? t(`advice.${key}`) : ''
}

function link(label, iconName, href, attributes) {
  return make('a', { class: 'xalora-button xalora-button-secondary', href, ...attributes }, icon(iconName), make('span', { text: label }))
}
