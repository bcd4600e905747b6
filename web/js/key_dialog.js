/** The dialog to enter, test and remove the API key. A stored key is never shown. */

import { openDialog } from './dialog.js'
import { fill, icon, iconButton, make, setText, textButton } from './dom.js'
import { ServiceError } from './service.js'

const COMFYUI_SETTINGS = "ComfyUI's settings"
/** The source of a key that the shell has stored: used here, replaced here by another, and removed there. */
const LOGIN = 'xalora login'

const OUTCOME_TONES = { accepted: 'good', no_miner: 'note', unreachable: 'bad', refused: 'bad', failed: 'bad' }

/**
 * @param {object} context
 * @param {Function} context.t Looks up texts.
 * @param {import('./service.js').Service} context.service
 * @param {(status: object) => void} context.onStatus Called with the new status after a change.
 */
export async function openKeyDialog({ t, service, onStatus }) {
  const body = make('div', { class: 'xalora-key' })
  const dialog = openDialog(t('key.title'), { t, kind: 'xalora-dialog-narrow', body: [body] })
  const message = make('div', { class: 'xalora-verdict', role: 'status', 'aria-live': 'polite' })

  function say(tone, text, detail = '') {
    message.dataset.tone = tone
    fill(
      message,
      icon({ good: 'check-circle', bad: 'exclamation-triangle', note: 'info-circle', busy: 'spinner pi-spin' }[tone]),
      make('span', {}, make('span', { text }), detail ? make('span', { class: 'xalora-verdict-detail', text: detail }) : null)
    )
  }

  /** Run one of the dialog's actions with its controls disabled, and show its error. */
  async function during(words, work) {
    const controls = [...dialog.querySelectorAll('button, input')].filter((control) => !control.closest('header'))
    const focused = document.activeElement
    for (const control of controls) control.disabled = true
    say('busy', words)
    try {
      await work()
    } catch (error) {
      say('bad', error.message, error instanceof ServiceError ? error.detail : '')
    } finally {
      for (const control of controls) control.disabled = false
      if (!dialog.contains(document.activeElement)) (focused?.isConnected ? focused : dialog.querySelector('input, button'))?.focus()
    }
  }

  function sayOutcome(verdict) {
    const host = hostOf(verdict.endpoint)
    const next = verdict.outcome === 'accepted' ? t('key.next') : ''
    say(OUTCOME_TONES[verdict.outcome], t(`key.outcome.${verdict.outcome}`, { host }), verdict.message || next)
  }

  async function refresh() {
    const status = await service.status()
    onStatus(status)
    show(status)
    return status
  }

  function show(status) {
    message.replaceChildren()
    delete message.dataset.tone
    const account = status.key
    fill(
      body,
      account ? currentState(status, t) : make('p', { class: 'xalora-note', text: problemText(status, t) }),
      account && !account.editable ? null : form(status),
      message,
      account?.present ? lastButtons() : null
    )
    dialog.querySelector('input')?.focus()
  }

  function form(status) {
    const present = Boolean(status.key?.present)
    const key = make('input', {
      id: 'xalora-key-input',
      class: 'xalora-input',
      type: 'password',
      name: 'xalora-key',
      autocomplete: 'off',
      spellcheck: 'false',
      'data-1p-ignore': true,
      'data-lpignore': 'true',
      required: true,
      placeholder: present ? t('key.placeholderReplace') : t('key.placeholder'),
      'aria-describedby': 'xalora-key-hint'
    })
    const endpoint = make('input', {
      id: 'xalora-endpoint-input',
      class: 'xalora-input',
      type: 'url',
      name: 'xalora-endpoint',
      autocomplete: 'off',
      spellcheck: 'false',
      placeholder: status.endpoint?.default ?? ''
    })
    if (status.endpoint?.editable && status.endpoint.url !== status.endpoint.default) endpoint.value = status.endpoint.url
    const peek = iconButton('eye', t('key.show'), () => {
      const hidden = key.type === 'password'
      key.type = hidden ? 'text' : 'password'
      peek.firstChild.className = `pi pi-${hidden ? 'eye-slash' : 'eye'}`
      peek.title = t(hidden ? 'key.hide' : 'key.show')
      peek.setAttribute('aria-label', peek.title)
    })
    const advanced = make(
      'details',
      { class: 'xalora-details', open: Boolean(endpoint.value) },
      make('summary', { text: t('key.endpointTitle') }),
      make('label', { class: 'xalora-label', for: endpoint.id, text: t('key.endpoint') }),
      endpoint,
      make('p', { class: 'xalora-hint', text: t('key.endpointHint') })
    )
    const buttons = make(
      'div',
      { class: 'xalora-buttons' },
      present && status.key.source !== LOGIN ? textButton(t('key.remove'), remove, { kind: 'danger', iconName: 'trash' }) : null,
      make('span', { class: 'xalora-spring' }),
      make('button', { type: 'submit', class: 'xalora-button xalora-button-primary' }, make('span', { text: t('key.save') }))
    )
    return make(
      'form',
      { class: 'xalora-form', autocomplete: 'off', on: { submit } },
      make('label', { class: 'xalora-label', for: key.id, text: present ? t('key.labelReplace') : t('key.label') }),
      make('div', { class: 'xalora-field' }, key, peek),
      make('p', { class: 'xalora-hint', id: 'xalora-key-hint', text: t('key.hint') }),
      status.endpoint && !status.endpoint.editable ? null : advanced,
      buttons
    )

    function submit(event) {
      event.preventDefault()
      void during(t('key.testing'), async () => {
        const verdict = await service.setKey(key.value.trim(), endpoint.value.trim())
        key.value = ''
        await refresh()
        sayOutcome(verdict)
        body.querySelector('[data-action=done]')?.focus()
      })
    }
  }

  function remove() {
    void during(t('key.removing'), async () => {
      onStatus(await service.removeKey())
      await refresh()
      say('note', t('key.removed'))
    })
  }

  function lastButtons() {
    return make(
      'div',
      { class: 'xalora-buttons' },
      textButton(
        t('key.test'),
        () =>
          during(t('key.testing'), async () => {
            sayOutcome(await service.testKey())
            onStatus(await service.status())
          }),
        { iconName: 'bolt' }
      ),
      make('span', { class: 'xalora-spring' }),
      textButton(t('action.done'), () => dialog.close(), { kind: 'primary', data: { action: 'done' } })
    )
  }

  try {
    await refresh()
  } catch (error) {
    setText(body, '')
    body.append(message)
    say('bad', error.message, error.detail ?? '')
  }
  return dialog
}

function currentState(status, t) {
  const { key, endpoint } = status
  const isStored = key.editable && key.source !== LOGIN
  const words = key.present ? (isStored ? t('key.stored') : t('key.from', { source: sourceName(key, t) })) : t('key.missing')
  return make(
    'div',
    { class: 'xalora-state', data: { tone: key.present ? 'good' : 'note' } },
    icon(key.present ? 'check-circle' : 'key'),
    make(
      'div',
      {},
      make('div', { text: words }),
      make('div', { class: 'xalora-hint', text: t('key.network', { host: hostOf(endpoint.url) }) }),
      key.present && !key.editable ? make('div', { class: 'xalora-hint', text: t('key.fixed', { variable: key.variable }) }) : null
    )
  )
}

/** What is wrong with the settings: each by the name that it has in ComfyUI's settings, where it has one. */
export function problemText({ problem, problems }, t) {
  if (!problems?.length) return problem
  return problems
    .map(({ id, message, ...from }) => {
      const name = id ? t(`setting.${id.replace('.', '_')}.name`) : from.variable
      const isPlain = from.source === COMFYUI_SETTINGS || (!id && from.source === 'environment')
      return `${isPlain ? name : t('problem.setBy', { name, source: sourceName(from, t) })}: ${message}`
    })
    .join('; ')
}

/** The source of a value, in words: the environment variable, or the file. */
export function sourceName({ source, variable }, t) {
  return source === 'environment' ? t('source.environment', { variable }) : source
}

/** The host of an URL, such as `sequencer-v2.xalora.xyz`; the whole text if it is no URL. */
export function hostOf(url) {
  try {
    return new URL(url).host
  } catch {
    return url
  }
}
