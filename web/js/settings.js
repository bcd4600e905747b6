/** The pack's settings in ComfyUI's dialog. Names, tooltips and options are in `locales/`. */

import { make } from './dom.js'
import { sourceName } from './key_dialog.js'

const POLICIES = ['never', 'when_unavailable', 'on_any_failure', 'local_only']

/** Each setting's group and control. */
const SETTINGS = [
  {
    id: 'Xalora.Fallback',
    group: 'Fallback',
    type: 'combo',
    options: POLICIES
  },
  {
    id: 'Xalora.QueueLimit',
    group: 'Fallback',
    type: 'number',
    attrs: { min: 0, max: 86400, step: 10, showButtons: true }
  },
  {
    id: 'Xalora.MaxInFlight',
    group: 'Tasks',
    type: 'slider',
    attrs: { min: 1, max: 64, step: 1 }
  },
  {
    id: 'Xalora.Reuse',
    group: 'Tasks',
    type: 'boolean'
  },
  {
    id: 'Xalora.Prices',
    group: 'Cost',
    type: 'text',
    attrs: { placeholder: 'upscaler=0.02, 3=0.05' }
  },
  {
    id: 'Xalora.DailyTasks',
    group: 'Cost',
    type: 'number',
    attrs: { min: 0, max: 1000000, step: 10, showButtons: true }
  },
  {
    id: 'Xalora.DailyCost',
    group: 'Cost',
    type: 'number',
    attrs: { min: 0, max: 1000000, step: 1, maxFractionDigits: 2, showButtons: true }
  },
  {
    id: 'Xalora.ResultsLimitGiB',
    group: 'Tasks',
    type: 'number',
    attrs: { min: 0.1, max: 1024, step: 1, maxFractionDigits: 1, showButtons: true }
  },
  {
    id: 'Xalora.InlineLimitMiB',
    group: 'Input images',
    type: 'number',
    attrs: { min: 0.1, max: 64, step: 1, maxFractionDigits: 1, showButtons: true }
  },
  {
    id: 'Xalora.StoreUrl',
    group: 'Input images',
    type: 'text',
    attrs: { placeholder: 's3://bucket/prefix' }
  },
  {
    id: 'Xalora.StoreEndpoint',
    group: 'Input images',
    type: 'text',
    attrs: { placeholder: 'https://...' }
  },
  {
    id: 'Xalora.StoreRegion',
    group: 'Input images',
    type: 'text'
  }
]

/**
 * The settings for `registerExtension`.
 *
 * @param {object|null} inForce The answer of `Service.settings`: the current settings and the defaults.
 * @param {object} context
 * @param {Function} context.t Looks up texts.
 * @param {() => void} context.openKey Opens the key dialog.
 * @param {() => void} context.onChange Called at each change.
 */
export function settingsOf(inForce, { t, openKey, onChange }) {
  const facts = new Map((inForce?.settings ?? []).map((setting) => [setting.id, setting]))
  const defined = SETTINGS.map(({ group, ...setting }, index) => {
    const fact = facts.get(setting.id)
    return {
      ...setting,
      ...wordsOf(setting.id, t),
      category: ['Xalora', group, setting.id.split('.')[1]],
      sortOrder: SETTINGS.length - index,
      onChange,
      defaultValue: inForce?.defaults[setting.id] ?? fallbackDefault(setting),
      ...(setting.options ? { options: setting.options.map((value) => ({ text: value, value })) } : {}),
      ...(fact?.overridden ? { type: () => overridden(fact, setting, t), options: undefined, attrs: undefined } : {})
    }
  })
  return [keyRow(t, openKey), ...defined]
}

/** ComfyUI looks for these texts in the user's language itself; what it does not find there, it takes from here. */
function wordsOf(id, t) {
  const key = `setting.${id.replace('.', '_')}`
  return { name: t(`${key}.name`), tooltip: t(`${key}.tooltip`) }
}

function keyRow(t, openKey) {
  return {
    id: 'Xalora.Key',
    category: ['Xalora', 'Account', 'Key'],
    ...wordsOf('Xalora.Key', t),
    sortOrder: 1000,
    // Nothing is saved under this id: the control is a button.
    defaultValue: '',
    type: () =>
      make('span', { class: 'xalora' }, make('button', { type: 'button', class: 'xalora-button xalora-button-secondary', text: t('settings.key'), on: { click: openKey } }))
  }
}

/** Replaces a control that would have no effect. */
function overridden(fact, setting, t) {
  const value = setting.options ? t(`policy.${fact.value}`) : String(fact.value)
  return make(
    'span',
    { class: 'xalora xalora-overridden' },
    make('span', { class: 'xalora-mono', text: value }),
    make('span', { class: 'xalora-hint', text: t('settings.overridden', { source: sourceName(fact, t) }) })
  )
}

function fallbackDefault({ type, attrs, options }) {
  if (type === 'boolean') return true
  if (type === 'combo') return options[1]
  return type === 'text' ? '' : (attrs?.min ?? 0)
}
