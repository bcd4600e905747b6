/** Helpers that create and update DOM elements. */

/**
 * Create an element with attributes, listeners and children.
 *
 * @param {string} tag
 * @param {object} [attributes] `class`, `text`, `on: {event: listener}`, `data: {...}`; any other is an
 *   attribute: true sets it empty, false, null and undefined leave it out.
 * @param {...(Node|string|null|undefined)} children
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'text') element.textContent = value
    else if (name === 'on') {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener)
    } else if (name === 'data') Object.assign(element.dataset, value)
    else setAttribute(element, name, value)
  }
  element.append(...children.filter((child) => child !== null && child !== undefined))
  return element
}

/** Set or remove an attribute, if it differs. */
export function setAttribute(element, name, value) {
  if (value === false || value === null || value === undefined) element.removeAttribute(name)
  else {
    const text = value === true ? '' : String(value)
    if (element.getAttribute(name) !== text) element.setAttribute(name, text)
  }
}

/** Set an element's text, if it differs. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}

/** Replace the children of an element. */
export function fill(element, ...children) {
  element.replaceChildren(...children.filter((child) => child !== null && child !== undefined))
  return element
}

/**
 * Replace the children of an element if the signature has changed. Unchanged children keep the focus, and screen
 * readers do not read them again.
 *
 * @param {string} signature
 * @param {() => Node|null|(Node|null)[]} build
 */
export function fillAs(element, signature, build) {
  if (element.dataset.signature === signature) return
  element.dataset.signature = signature
  fill(element, ...[build()].flat())
}

/** An icon from ComfyUI's set, hidden from screen readers. */
export function icon(name) {
  return make('i', { class: `pi pi-${name}`, 'aria-hidden': 'true' })
}

/** A button with only an icon; `label` is its accessible name and tooltip. */
export function iconButton(name, label, onClick, attributes = {}) {
  return make(
    'button',
    {
      type: 'button',
      'aria-label': label,
      title: label,
      on: { click: onClick },
      ...attributes,
      class: `xalora-icon-button ${attributes.class ?? ''}`.trim()
    },
    icon(name)
  )
}

/** A button with a label, and an optional icon before it. */
export function textButton(label, onClick, { kind = 'secondary', iconName, ...attributes } = {}) {
  return make(
    'button',
    { type: 'button', class: `xalora-button xalora-button-${kind}`, on: { click: onClick }, ...attributes },
    iconName ? icon(iconName) : null,
    make('span', { text: label })
  )
}

/** Copy text to the clipboard, also on pages without a secure context. */
export async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    await navigator.clipboard.writeText(text)
    return
  }
  const holder = make('textarea', { class: 'xalora-visually-hidden', text, readonly: true, 'aria-hidden': 'true' })
  const before = document.activeElement
  const parent = document.querySelector('dialog[open].xalora-dialog') ?? document.body
  parent.append(holder)
  holder.select()
  const copied = document.execCommand('copy')
  holder.remove()
  before?.focus?.()
  if (!copied) throw new Error('The browser does not let this page copy.')
}
