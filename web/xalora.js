/** The browser extension: registers the sidebar tab, the key dialog, settings, commands and notices. */

import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'
import { openConfirmDialog } from './js/confirm_dialog.js'
import { createDoneNotice } from './js/done_notice.js'
import { openExamples } from './js/examples.js'
import { openKeyDialog } from './js/key_dialog.js'
import { openLimitDialog } from './js/limit_dialog.js'
import * as lines from './js/node_line.js'
import { addNode, hideAdvanced, lacksAdvanced, nodeOf, showNode, toggleAdvanced, useAsInput } from './js/nodes.js'
import { createNotices } from './js/notices.js'
import { Panel } from './js/panel.js'
import { createSeedKeeper, fixSeeds } from './js/seeds.js'
import { Service } from './js/service.js'
import { settingsOf } from './js/settings.js'
import { TaskStore } from './js/store.js'
import { loadTexts } from './js/texts.js'
import { openViewer } from './js/viewer.js'

const TAB = 'xalora'
const REPOSITORY = 'https://github.com/xalora/ComfyUI-Xalora'

document.head.append(
  Object.assign(document.createElement('link'), { rel: 'stylesheet', href: new URL('./xalora.css', import.meta.url).href })
)

/**
 * The server's messages, from before the first wait on: ComfyUI reports one that nobody listens to as unknown.
 * Those that come before the page is set up are kept until then.
 */
const messages = { early: [], receive: (type, detail) => messages.early.push([type, detail]) }
for (const type of ['xalora.tasks', 'xalora.line', 'xalora.fallback']) {
  api.addEventListener(type, ({ detail }) => messages.receive(type, detail))
}

const manager = () => app.extensionManager
const locale = manager().setting.get('Comfy.Locale') ?? 'en'
const t = await loadTexts(api, locale)
const service = new Service(api, t)
const store = new TaskStore(service)
// Without an answer the settings are registered all the same; they only do not show what overrides them.
const inForce = await service.settings().catch(() => null)

const host = {
  canShowNode: (row) => nodeOf(app, row) !== null,
  showNode(row) {
    if (!showNode(app, row)) toast({ severity: 'info', summary: t('notice.noNode'), life: 5000 })
  },
  confirm: (question) => openConfirmDialog(question, t),
  async prompt({ title, message }) {
    return manager().dialog.prompt({ title, message })
  },
  toast,
  openKey: () => openKeyDialog({ t, service, onStatus: (status) => panel.setStatus(status) }),
  openSettings: () => manager().command.execute('Comfy.ShowSettingsDialog'),
  openExamples: () => openExamples({ app, api, t }),
  addNode: () => addNode(app, 'XaloraUpscaleImage'),
  useAsInput: (url, name, kind) => useAsInput(app, api, url, name, kind),
  openViewer: (row, actions) => openViewer(row, { t, locale, service, store, actions, canShowNode: host.canShowNode, useAsInput: host.useAsInput, toast })
}
const panel = new Panel({ t, service, store, host })
const notices = createNotices({ t, toast, openKey: () => host.openKey(), askLimit: (message) => openLimitDialog(message, { t, service, toast }) })
const seeds = createSeedKeeper(app, api)
const done = createDoneNotice(t)

function toast(message) {
  manager().toast.add(message)
}

function openTab() {
  if (manager().sidebarTab?.activeSidebarTabId !== TAB) void manager().command.execute(`Workspace.ToggleSidebarTab.${TAB}`)
}

/** Show the number of open tasks on the tab's icon. */
function showBadge() {
  const { active } = store.counts
  const tab = manager()
    .getSidebarTabs()
    .find(({ id }) => id === TAB)
  // Assigned on the manager's own object, which its template observes.
  if (tab) tab.iconBadge = active > 0 ? String(active) : ''
}

function receive(type, detail) {
  if (type === 'xalora.fallback') notices.onFallback(detail)
  else if (type === 'xalora.line') {
    done.onOurs()
    lines.showLine(app, detail)
  } else {
    store.apply(detail)
    panel.noticeTasks(detail.tasks)
  }
}

async function catchUp() {
  try {
    const [{ counts }] = await Promise.all([service.tasks({ limit: 0 }), panel.refreshStatus()])
    store.counts = counts
    showBadge()
  } catch (error) {
    console.warn('[Xalora]', error.message)
  }
}

let asking = 0

/** ComfyUI saves a setting after this call, so the status is requested a little later. */
function onSetting() {
  clearTimeout(asking)
  asking = setTimeout(() => {
    panel.refreshStatus().catch(() => {})
    // What tasks cost may have changed.
    void store.refresh()
  }, 500)
}

app.registerExtension({
  name: 'Xalora',
  settings: settingsOf(inForce, { t, openKey: () => host.openKey(), onChange: onSetting }),
  commands: [
    { id: 'Xalora.OpenTasks', label: 'Show Xalora tasks', icon: 'pi pi-list', function: openTab },
    { id: 'Xalora.SetKey', label: 'Set Xalora API key', icon: 'pi pi-key', function: () => void host.openKey() },
    { id: 'Xalora.CancelAll', label: 'Cancel all Xalora tasks', icon: 'pi pi-times-circle', function: () => panel.cancelAll() },
    { id: 'Xalora.Advanced', label: 'Show or hide advanced widgets of Xalora nodes', icon: 'pi pi-sliders-h', function: () => toggleAdvanced(app) }
  ],
  menuCommands: [{ path: ['Extensions', 'Xalora'], commands: ['Xalora.OpenTasks', 'Xalora.SetKey', 'Xalora.CancelAll'] }],
  aboutPageBadges: [{ label: 'ComfyUI-Xalora', url: REPOSITORY, icon: 'pi pi-cloud' }],

  getSelectionToolboxCommands: (item) => (lacksAdvanced(item) ? ['Xalora.Advanced'] : []),

  nodeCreated(node) {
    fixSeeds(node)
    hideAdvanced(node)
    lines.prepareLine(node)
  },
  afterConfigureGraph: () => seeds.onOpened(),

  setup() {
    manager().registerSidebarTab({
      id: TAB,
      icon: 'xalora-tab-icon',
      title: t('title'),
      label: t('title'),
      tooltip: t('tooltip'),
      type: 'custom',
      render: (element) => panel.mount(element),
      destroy: () => panel.unmount()
    })
    messages.receive = receive
    for (const [type, detail] of messages.early.splice(0)) receive(type, detail)
    api.addEventListener('execution_error', ({ detail }) => void notices.onError(detail))
    api.addEventListener('promptQueued', () => seeds.onQueued())
    api.addEventListener('execution_start', () => {
      lines.onStart()
      done.onStart()
    })
    api.addEventListener('status', ({ detail }) => done.onQueue(detail?.exec_info?.queue_remaining))
    for (const end of ['execution_success', 'execution_error', 'execution_interrupted']) {
      api.addEventListener(end, ({ detail }) => {
        // A blocked output is announced as an error of its own, and the prompt goes on.
        if (detail.exception_type === 'ExecutionBlocked') return
        lines.onEnd()
        done.onEnd(end)
        if (end !== 'execution_success') void seeds.onEnded(detail)
      })
    }
    api.addEventListener('reconnecting', () => panel.setOffline(true))
    api.addEventListener('reconnected', () => {
      panel.setOffline(false)
      void catchUp()
      lines.onReconnected(app, api, t('line.lost')).catch((error) => console.warn('[Xalora]', error.message))
    })
    store.addEventListener('change', showBadge)
    void catchUp()
  }
})
