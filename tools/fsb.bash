# fsb.bash - completion of fsb's commands, options, and paths on any URL, for bash.
_fsb() {
    local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} folder names
    COMPREPLY=()
    if [ "$COMP_CWORD" = 1 ]; then
        COMPREPLY=($(compgen -W "ls cat cp mv rm mkdir stat find tree du sync exec bench cache registry session status
            token --help --version" -- "$word"))
        return
    fi
    case $command:$word in
    cache:* | registry:* | session:* | status:* | token:*) return ;;
    sync:-*) COMPREPLY=($(compgen -W "--delete --dry-run --verify --json --timeout -j -v" -- "$word")) ;;
    cp:-*) COMPREPLY=($(compgen -W "-r -p --resume --verify --json --timeout -j -v" -- "$word")) ;;
    *:-*) COMPREPLY=($(compgen -W "--json --timeout --help" -- "$word")) ;;
    *:*://*/*) # what is in that folder over there; bash splits words at ':'
        folder=${word%/*}/
        names=$(fsb ls --timeout 5 "$folder" 2>/dev/null) || return
        local IFS=$'\n'
        COMPREPLY=($(compgen -P "$folder" -W "$names" -- "${word##*/}"))
        ;;
    *) compopt -o filenames 2>/dev/null
        local IFS=$'\n'
        COMPREPLY=($(compgen -f -- "$word")) ;;
    esac
}
complete -F _fsb fsb
