#!/usr/bin/env bash
# Calls that are never right here, and the few places where one of them is.
. "$(dirname "$0")/lint.sh"

# Nowhere, tests included: no bound, or a bound that nobody sees.
everywhere='strcpy stpcpy strcat sprintf vsprintf gets alloca mktemp tmpnam tempnam'
# Not in the product: a shell, the environment, stdio that keeps what passed through it, other
# people's randomness, functions whose result lives in static memory.
product='system popen execl execlp execle execv execvp execvpe posix_spawn getenv secure_getenv setenv putenv
    rand srand random srandom rand_r drand48 bcopy bzero strncpy strncat
    strerror asctime ctime gmtime localtime ttyname getpwnam getpwuid getgrnam getgrgid readdir_r
    strtok atoi atol atoll scanf sscanf fscanf signal siglongjmp longjmp setjmp realloc reallocarray getpass fread fgets getline getdelim gethostbyname'
# file:function  why it is right there
allowed='
src/key/key_source.c:getenv            credential=NAME is defined by systemd through $CREDENTIALS_DIRECTORY, which holds a path and no secret
src/key/key_source.c:secure_getenv     the same
src/cli/cli_endpoint.c:getpwnam        uid=NAME of a socket; the process has one thread while options are read
src/cli/cli_endpoint.c:getgrnam        gid=NAME, likewise
src/cli/cli.c:stpcpy                   the words of the command line, into room measured just before
src/cli/main.c:strerror                before there is a second thread
src/compat/emulator_words.c:stpcpy  into room measured just before
src/compat/emulator_state.c:getenv  TPM_PATH, which swtpm knows, is a directory
src/compat/emulator_args.c:getenv   TPM_PORT, likewise, is a port
src/compat/compat_policy.c:getenv  where the policy is; nothing secret is in it
src/compat/compat_policy.c:fgets   likewise
src/compat/compat_policy.c:sscanf  every field has its width
src/compat/compat_user.c:getpwnam  --runas; before there is a second thread
src/compat/compat_user.c:getpwuid  likewise
src/compat/swtpm_bios.c:getenv     where the TPM is, in the variables that the TSS of TPM 1.2 knows
src/compat/setup_config.c:fgets    a configuration file, which holds no secret
src/compat/setup_config.c:getenv   where it is: $XDG_CONFIG_HOME and $HOME, as swtpm_setup has it; $PATH, for the signer
src/compat/cert_password.c:getenv   env:NAME, as swtpm_cert has it; the PIN or password of a signing key
src/compat/swtpm_cert.c:getenv      $SWTPM_PKCS11_PIN, likewise
src/compat/swtpm_localca.c:getenv   the same, $SWTPM_ROOTCA_PASSWORD, and ${NAME} in its configuration
src/compat/swtpm_localca.c:setenv   env:NAME of its configuration, for PKCS #11 modules; the process has one thread
src/compat/cert_program.c:execl     the program that signs; no shell, and a path that a file of the owner names
src/compat/setup_make.c:getpwuid   who does it, for the log; the process has one thread
src/compat/setup_make.c:getgrgid   the same
src/compat/setup_signer.c:execv    the program that signs; no shell, and a path that a file of the owner names
src/compat/setup_signer.c:getenv   $TMPDIR
'

rule()
{
    local f words pattern
    for f in $(all_c_files "$1"); do
        words=$everywhere
        case $f in
        tests/*) ;;
        *) words="$words $product" ;;
        esac
        pattern=$(echo $words | tr ' ' '|')
        # signal() that ignores or restores is the same everywhere; with a handler it is not.
        code_only "$1/$f" | sed -E 's/signal\([a-zA-Z_]+, SIG_(IGN|DFL)\)//g' | grep -oE "^[0-9]+:|(^|[^A-Za-z0-9_>.])($pattern)[[:space:]]*\(" | awk -v file="$f" '
            /^[0-9]+:$/ { nr = $0; next }
            { gsub(/[^A-Za-z0-9_]/, ""); print file ":" nr " " $0 }'
    done | while read -r where call; do
        grep -q "^${where%%:*}:$call " <<<"$allowed" ||
            echo "$where $call() is not used here"
    done
}

bad 'strcpy() is not used here' src/x.c <<<'void f(void) { strcpy(a, b); }'
bad 'src/x.c:2: sprintf()' src/x.c <<<'
    sprintf (a, "%d", b);'
bad 'strcat()' tests/src/x.c <<<'strcat(a, b);'
bad 'system()' src/x.c <<<'if (system("true") != 0)'
bad 'popen()' crypto/x.c <<<'	p = popen("true", "r");'
bad 'alloca()' backend/x.c <<<'char *p = alloca(n);'
bad 'getenv()' src/x.c <<<'getenv("HOME")'
bad 'getenv()' src/base/x.c <<<'x = y ? getenv("A") : 0;'
bad 'rand()' crypto/x.c <<<'return rand();'
bad 'realloc()' crypto/x.c <<<'p = realloc(p, n);'
bad 'setjmp()' crypto/x.c <<<'/* a comment */ setjmp(b);'
good src/x.c <<<'/* strcpy(a, b) and system("x") would be wrong */ int x; // sprintf(a)'
good src/x.c <<<'const char *help = "never system(3)"; my_strcpy(a); q->system(1); x.popen(2);'
bad 'signal()' src/x.c <<<'signal(SIGTERM, on_term);'
good src/x.c <<<'signal(SIGPIPE, SIG_IGN);'
good src/key/key_source.c <<<'const char *dir = secure_getenv("CREDENTIALS_DIRECTORY");'
good tests/src/x.c <<<'const char *program = getenv("NVKEEP"); system("true");'
judge
