/** Durations, sizes and ages as text. `t` looks up texts. */

/** `0.8 s`, `12 s`, `2 min 5 s`, `1 h 4 min`. */
export function duration(seconds, t) {
  if (seconds < 10) return t('time.seconds', { count: seconds.toFixed(1) })
  if (seconds < 120) return t('time.seconds', { count: Math.round(seconds) })
  const minutes = Math.floor(seconds / 60)
  if (minutes < 60) return t('time.minutes', { count: minutes, rest: Math.round(seconds % 60) })
  return t('time.hours', { count: Math.floor(minutes / 60), rest: minutes % 60 })
}

/** Whole seconds, for a running count: `12 s`, `2 min 5 s`. */
export function elapsed(seconds, t) {
  const whole = Math.max(0, Math.floor(seconds))
  return whole < 10 ? t('time.seconds', { count: whole }) : duration(whole, t)
}

/** `40 - 55 s`, or one number where both ends agree. */
export function span([low, high], t) {
  const [from, to] = [Math.max(1, Math.round(low)), Math.max(1, Math.round(high))]
  if (from === to) return duration(to < 10 ? to + 1e-9 : to, t).replace('.0', '')
  if (to < 120) return t('time.span', { from, to })
  return t('time.spanLong', { from: duration(from, t), to: duration(to, t) })
}

/** `812 B`, `14 kB`, `1.4 MB`. */
export function bytes(size) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let value = size
  let unit = 0
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000
    unit += 1
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(value >= 10 ? 0 : 1)} ${units[unit]}`
}

/** An age: `now`, `5 min`, `3 h`, `2 d`. */
export function ago(seconds, t) {
  if (seconds < 60) return t('ago.now')
  if (seconds < 3600) return t('ago.minutes', { count: Math.floor(seconds / 60) })
  if (seconds < 86400) return t('ago.hours', { count: Math.floor(seconds / 3600) })
  return t('ago.days', { count: Math.floor(seconds / 86400) })
}
