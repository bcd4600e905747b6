/** The dialog with the pack's example workflows. */

import { openDialog } from './dialog.js'
import { make } from './dom.js'
import { fitBesideSidebars } from './nodes.js'

const FOLDER = decodeURIComponent(new URL(import.meta.url).pathname.match(/\/extensions\/([^/]+)\//)?.[1] ?? '')

/** In which order they are shown, the simplest first; others follow. */
const ORDER = ['Upscale an image', 'Text to image', 'Text to video', 'Upscale a batch', 'Upscale a video', 'Upscale between local steps', 'Submit and collect later']

/** When an opened example is fitted into view, in milliseconds; not after the user has moved the canvas. */
const FITS = [0, 50, 250, 1000, 2500]

/**
 * Show the examples; a click opens one, in view beside the sidebar.
 *
 * @param {object} context
 * @param app ComfyUI's `app`.
 * @param api ComfyUI's `api`.
 * @param {Function} context.t Looks up texts.
 */
export async function openExamples({ app, api, t }) {
  const offered = await (await api.fetchApi('/workflow_templates')).json()
  const place = (name) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length)
  const names = [...(offered[FOLDER] ?? [])].sort((one, other) => place(one) - place(other) || one.localeCompare(other))
  const url = (name, type) => `/workflow_templates/${encodeURIComponent(FOLDER)}/${encodeURIComponent(name)}.${type}`
  const open = async (name) => {
    dialog.close()
    const graph = await (await api.fetchApi(url(name, 'json'))).json()
    await app.loadGraphData(graph, true, true, name)
    // ComfyUI fits the graph into the whole canvas a moment later, and nodes grow as their images come.
    const moved = new AbortController()
    for (const type of ['pointerdown', 'wheel']) {
      app.canvas.canvas.addEventListener(type, () => moved.abort(), { signal: moved.signal })
    }
    for (const pause of FITS) setTimeout(() => moved.signal.aborted || fitBesideSidebars(app), pause)
    setTimeout(() => moved.abort(), FITS.at(-1))
  }
  const cards = names.map((name) =>
    make(
      'button',
      { type: 'button', class: 'xalora-example', on: { click: () => void open(name) } },
      make('img', { src: api.apiURL(url(name, 'jpg')), alt: '', loading: 'lazy' }),
      make('span', { text: name })
    )
  )
  const dialog = openDialog(t('empty.examples'), { t, kind: 'xalora-examples', body: [make('div', { class: 'xalora-example-grid' }, ...cards)] })
  return dialog
}
