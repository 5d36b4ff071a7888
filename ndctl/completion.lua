-- completion.lua - `ndctl completion`: the script that teaches a shell to complete ndctl's words.
--
-- The scripts know nothing of commands: they hand the line to `ndctl __complete` (lib/complete.lua),
-- so that they fit every version and names come from the daemon as it is.

local out = require "ndctl.lib.out"

local scripts = {}

scripts.bash = [==[
# Completion of ndctl for bash. For this shell: source <(ndctl completion bash)
_ndctl() {
  local program=${COMP_WORDS[0]/#\~/$HOME} found value rest
  COMPREPLY=()
  found=$("$program" __complete bash "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null) || return 0
  if [[ $found == :files ]]; then
    compopt -o default 2>/dev/null
    return 0
  fi
  while IFS=$'\t' read -r value rest; do
    [[ -z $value ]] || COMPREPLY+=("$value")
  done <<<"$found"
}
complete -F _ndctl ndctl
]==]

scripts.zsh = [==[
#compdef ndctl
# Completion of ndctl for zsh. For this shell: source <(ndctl completion zsh)
_ndctl() {
  local -a lines values
  local line value
  lines=("${(@f)$("${words[1]/#\~/$HOME}" __complete zsh "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ $lines[1] == :files ]]; then
    _files
    return
  fi
  for line in $lines; do
    value=${line%%$'\t'*}
    [[ $line != *$'\t'* ]] || line=${value//:/\\:}:${line#*$'\t'}
    [[ -z $value ]] || values+=("$line")
  done
  _describe -t ndctl ndctl values
}
if [[ $funcstack[1] == _ndctl ]]; then
  _ndctl "$@"
else
  compdef _ndctl ndctl
fi
]==]

scripts.fish = [==[
# Completion of ndctl for fish. For this shell: ndctl completion fish | source
function __ndctl_complete
  set -l before (commandline -opc)
  set -l last (commandline -ct)
  set -l found ($before[1] __complete fish $before[2..-1] "$last" 2>/dev/null)
  if test "$found[1]" = :files
    __fish_complete_path "$last"
  else
    printf '%s\n' $found
  end
end
complete -c ndctl -f -a '(__ndctl_complete)'
]==]

return {
  name = "completion",
  summary = "Print a script that completes ndctl's words in bash, zsh or fish.",
  args = { { "shell", choices = { "bash", "zsh", "fish" } } },
  options = {},
  notes = {
    "Commands, options and the names of apps, runs, recipes, releases and contexts are completed; "
      .. "a daemon that can't be asked makes no noise.",
    "To keep it: ndctl completion bash > /etc/bash_completion.d/ndctl; ndctl completion zsh > "
      .. "/usr/local/share/zsh/site-functions/_ndctl; ndctl completion fish > "
      .. "~/.config/fish/completions/ndctl.fish",
  },
  permission = "local", json = false,
  examples = {
    { "ndctl completion bash" },
    { "ndctl completion zsh" },
    { "ndctl completion fish" },
  },
  run = function(ctx)
    out.print((scripts[ctx.args.shell]:gsub("\n$", "")))
  end,
}
