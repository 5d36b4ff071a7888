-- The deadline of effects that drain and stop: (options) -> ms, the drain and ten minutes.

local STOP_MS = 10 * 60 * 1000

return function(options) return (options and options.drain or 0) + STOP_MS end
