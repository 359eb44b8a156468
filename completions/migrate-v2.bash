# bash completion for migrate-v2; made from its --help by `make docs`.
_migrate_v2() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command= options names=none i
    COMPREPLY=()
    # bash takes the "=" of --option=value for a word of its own.
    [[ $word == = ]] && word=
    [[ $before == = ]] && before=${COMP_WORDS[COMP_CWORD - 2]}
    case $before in
        --dest) mapfile -t COMPREPLY < <(compgen -d -- "$word"); return ;;
        --state|--config|--template) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        --engine) mapfile -t COMPREPLY < <(compgen -W 'cli native' -- "$word"); return ;;
        --dest|--state|--config|--engine|--profile|--region|--endpoint-url|--throughput|--deadline|--prices|--html|--upgrade|--confirm|--max-delete|--trust-recent|--upload-age|--cause|--template) return ;;
    esac
    for ((i = 1; i < COMP_CWORD; i++)); do
        case " plan migrate scan restore sync verify confirm-delete status policy check-state backup-state errors retry-errors reset diagnose upgrade-db buckets whoami config " in
            *" ${COMP_WORDS[i]} "*) command=${COMP_WORDS[i]}; break ;;
        esac
    done
    case $command in
        plan) options='--dest --state --config --engine --profile --region --endpoint-url --wait --quick --throughput --deadline --egress-waiver --refresh-prices --prices --html --json -q --quiet -v --verbose -h --help --version' verbs='' names=buckets ;;
        migrate) options='--dest --state --config --engine --profile --region --endpoint-url --wait --force-space --accept-changes --json -q --quiet -v --verbose -h --help --version' verbs='' names=buckets ;;
        scan) options='--dest --state --config --engine --profile --region --endpoint-url --rescan --json -q --quiet -v --verbose -h --help --version' verbs='' names=buckets ;;
        restore) options='--dest --state --config --engine --profile --region --endpoint-url --wait --accept-changes --batch --manifest-only --upgrade --json -q --quiet -v --verbose -h --help --version' verbs='' names=buckets ;;
        sync) options='--dest --state --config --engine --profile --region --endpoint-url --accept-changes --json -q --quiet -v --verbose -h --help --version' verbs='' names=buckets ;;
        verify) options='--dest --state --config --engine --profile --region --endpoint-url --accept-changes --refetch --offline --json -q --quiet -v --verbose -h --help --version' verbs='' names=buckets ;;
        confirm-delete) options='--dest --state --config --engine --profile --region --endpoint-url --dry-run --confirm --max-delete --trust-recent --allow-older-current --allow-volatile --abort-uploads --upload-age --remove-bucket --json -q --quiet -v --verbose -h --help --version' verbs='' names=buckets ;;
        status) options='--dest --state --config --engine --profile --region --endpoint-url --watch --json -q --quiet -v --verbose -h --help --version' verbs='' names=buckets ;;
        policy) options='--dest --state --config --engine --profile --region --endpoint-url --dry-run --all --yes --hard --template --merge --replace --public-access-block --json -q --quiet -v --verbose -h --help --version' verbs='generate apply rollback freeze unfreeze' names=buckets ;;
        check-state) options='--dest --state --config --engine --profile --region --endpoint-url --recount --json -q --quiet -v --verbose -h --help --version' verbs='' names=none ;;
        backup-state) options='--dest --state --config --engine --profile --region --endpoint-url --json -q --quiet -v --verbose -h --help --version' verbs='' names=files ;;
        errors) options='--dest --state --config --engine --profile --region --endpoint-url --cause --json -q --quiet -v --verbose -h --help --version' verbs='' names=buckets ;;
        retry-errors) options='--dest --state --config --engine --profile --region --endpoint-url --cause --json -q --quiet -v --verbose -h --help --version' verbs='' names=buckets ;;
        reset) options='--dest --state --config --engine --profile --region --endpoint-url --dry-run --confirm --all --json -q --quiet -v --verbose -h --help --version' verbs='' names=buckets ;;
        diagnose) options='--dest --state --config --engine --profile --region --endpoint-url --write --json -q --quiet -v --verbose -h --help --version' verbs='' names=buckets ;;
        upgrade-db) options='--dest --state --config --engine --profile --region --endpoint-url --json -q --quiet -v --verbose -h --help --version' verbs='' names=files ;;
        buckets) options='--dest --state --config --engine --profile --region --endpoint-url --json -q --quiet -v --verbose -h --help --version' verbs='' names=none ;;
        whoami) options='--dest --state --config --engine --profile --region --endpoint-url --json -q --quiet -v --verbose -h --help --version' verbs='' names=none ;;
        config) options='--dest --state --config --engine --profile --region --endpoint-url --json -q --quiet -v --verbose -h --help --version' verbs='' names=none ;;
        *) options='--dest --state --config --engine --profile --region --endpoint-url --wait --force-space --accept-changes --quick --throughput --deadline --egress-waiver --refresh-prices --prices --html --batch --manifest-only --upgrade --rescan --refetch --offline --dry-run --confirm --max-delete --trust-recent --allow-older-current --allow-volatile --abort-uploads --upload-age --cause --write --recount --remove-bucket --all --yes --hard --template --merge --replace --public-access-block --watch --json -q --quiet -v --verbose -h --help --version' ;;
    esac
    if [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
    elif [[ -z $command ]]; then
        mapfile -t COMPREPLY < <(compgen -W 'plan migrate scan restore sync verify confirm-delete status policy check-state backup-state errors retry-errors reset diagnose upgrade-db buckets whoami config' -- "$word")
    elif [[ $names == buckets ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$verbs $(migrate-v2 --quiet status 2>/dev/null | cut -f1)" -- "$word")
    elif [[ $names == files ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
    fi
}
complete -F _migrate_v2 migrate-v2
