/** Small helpers for making elements. */

/**
 * An element with attributes, listeners and children.
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

/** Set or remove an attribute, touching the document only where it differs. */
export function setAttribute(element, name, value) {
  if (value === false || value === null || value === undefined) element.removeAttribute(name)
  else {
    const text = value === true ? '' : String(value)
    if (element.getAttribute(name) !== text) element.setAttribute(name, text)
  }
}

/** Set an element's text, touching the document only where it differs. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}

/** Replace the children of an element. */
export function fill(element, ...children) {
  element.replaceChildren(...children.filter((child) => child !== null && child !== undefined))
  return element
}

/**
 * Replace the children of an element where they would differ, told by a signature: what stays the same keeps its
 * focus, and is not read out again.
 *
 * @param {string} signature
 * @param {() => Node|null} build
 */
export function fillAs(element, signature, build) {
  if (element.dataset.signature === signature) return
  element.dataset.signature = signature
  fill(element, build())
}

/** An icon of the set that ComfyUI ships, hidden from screen readers. */
export function icon(name) {
  return make('i', { class: `pi pi-${name}`, 'aria-hidden': 'true' })
}

/** A button that shows an icon alone; `label` is its name and tooltip. */
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

/** A button with words, and an icon before them if given. */
export function textButton(label, onClick, { kind = 'secondary', iconName, ...attributes } = {}) {
  return make(
    'button',
    { type: 'button', class: `xalora-button xalora-button-${kind}`, on: { click: onClick }, ...attributes },
    iconName ? icon(iconName) : null,
    make('span', { text: label })
  )
}

/** Put text on the clipboard, on pages without a secure context too. */
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
