/** The texts of the user interface, from the pack's `locales/`, in ComfyUI's language. */

/**
 * Fetch the texts and return the function that looks them up: `t('filter.all')`, `t('ago.minutes', {count: 3})`.
 * `setting` holds the texts of the settings. A text missing in the user's language is taken from English; one
 * missing there too is shown as its key.
 *
 * @param api ComfyUI's `api`.
 * @param {string} locale `en`, `zh`, `zh-TW`...
 */
export async function loadTexts(api, locale) {
  let all = {}
  try {
    const response = await api.fetchApi('/i18n')
    if (response.ok) all = await response.json()
  } catch (error) {
    console.warn('[Xalora] The texts could not be loaded:', error)
  }
  const catalogs = [locale, locale?.split('-')[0], 'en']
    .filter((name) => all[name])
    .map((name) => ({ ...all[name].xalora, setting: all[name].settings }))
  return (key, values = {}) => {
    const text = catalogs.map((catalog) => lookUp(catalog, key)).find((found) => typeof found === 'string')
    return (text ?? key).replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole))
  }
}

function lookUp(catalog, key) {
  return key.split('.').reduce((branch, part) => branch?.[part], catalog)
}
