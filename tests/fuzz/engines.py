"""Fuzz targets under libFuzzer and AFL++: building one, running it for some time, making its corpus
smaller. A turn runs in a process of its own, so that what it cost is known to the last child:

    engines.py WORK TARGET ENGINE SECONDS      (prints one line of JSON)

The two share a corpus, WORK/corpus/TARGET: each begins with all that is there, and leaves there what
it found. An input that breaks something goes to WORK/findings.
"""

import ctypes
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENGINES = ("libfuzzer", "afl")
COMPILERS = {"libfuzzer": "clang", "afl": "afl-clang-fast"}
MAX_INPUT = 1 << 16
# By the clock, for a machine that has other things to do as well; see is_slow().
TIMEOUT_S = 20
SLOW_CPU_S = 5
RSS_MB = 2048


def available():
    """The engines that this machine has."""
    return [e for e in ENGINES if shutil.which(COMPILERS[e])]


def quiet(cmd, log, **more):
    """Runs something, with what it says in a file. Returns its exit code; None: it took too long."""
    with open(log, "ab") as out:
        try:
            return subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                  check=False, **more).returncode
        except subprocess.TimeoutExpired:
            return None


# --- building ---


def committed_source(work, back):
    """A copy of what was committed, so many commits back; it changes only where that has."""
    copy = os.path.join(work, "source")
    os.makedirs(copy, exist_ok=True)
    env = dict(os.environ, GIT_INDEX_FILE=os.path.join(os.path.abspath(work), "source.index"))
    subprocess.run(["git", "-C", ROOT, f"--work-tree={os.path.abspath(copy)}", "read-tree",
                    "--reset", "-u", f"HEAD~{back}"], env=env, check=True)
    return copy


def binary(work, engine, target):
    """Where a built target lies."""
    return os.path.join(work, "bin", engine, "fuzz_" + target)


def configure(work, source, engine):
    """Makes or renews a build folder; False: what lies in source cannot be built at all."""
    folder = os.path.join(work, "build-" + engine)
    log = os.path.join(work, "log", f"build.{engine}.log")
    env = dict(os.environ, AFL_QUIET="1")
    if os.path.exists(os.path.join(folder, "build.ninja")):
        return quiet(["ninja", "-C", folder, "build.ninja"], log, env=env) == 0
    return quiet(["cmake", "-S", source, "-B", folder, "-G", "Ninja", "-DNVKEEP_FUZZ=ON",
                  "-DNVKEEP_TESTS=ON", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_C_FLAGS_DEBUG=-O2 -g",
                  "-DCMAKE_C_COMPILER=" + COMPILERS[engine]], log, env=env) == 0


def build(work, engine, target):
    """Builds a target; False: that failed, and the one from before stays."""
    folder = os.path.join(work, "build-" + engine)
    log = os.path.join(work, "log", f"build.{engine}.log")
    env = dict(os.environ, AFL_QUIET="1")
    if quiet(["ninja", "-C", folder, "fuzz_" + target], log, env=env) != 0:
        return False
    ready = binary(work, engine, target)
    os.makedirs(os.path.dirname(ready), exist_ok=True)
    shutil.copy2(os.path.join(folder, "bin", "fuzz_" + target), ready + ".new")
    os.replace(ready + ".new", ready)
    return True


# --- corpora ---


def put(folder, path):
    """Copies a file into a folder, named by what it holds."""
    with open(path, "rb") as f:
        content = f.read()
    if 0 < len(content) <= MAX_INPUT:
        name = os.path.join(folder, hashlib.sha1(content).hexdigest())
        if not os.path.exists(name):
            with open(name, "wb") as f:
                f.write(content)


def files(folder):
    """Paths of the files of a folder."""
    if not os.path.isdir(folder):
        return []
    return sorted(e.path for e in os.scandir(folder) if e.is_file())


def corpus(work, target):
    """The folder of a target's corpus, with what the repository has of it."""
    folder = os.path.join(work, "corpus", target)
    os.makedirs(folder, exist_ok=True)
    for path in files(os.path.join(ROOT, "tests/fuzz/corpus", target)):
        put(folder, path)
    return folder


def merge(work, target, into, *sources):
    """Adds to a folder what has coverage that it does not have yet."""
    log = os.path.join(work, "log", f"{target}.merge.log")
    cmd = [binary(work, "libfuzzer", target), "-merge=1", f"-max_len={MAX_INPUT}",
           f"-timeout={TIMEOUT_S}", f"-artifact_prefix={os.path.join(work, 'slow')}/", into]
    return quiet(cmd + list(sources), log) == 0


def minimise(work, target):
    """Where the corpus has grown much: only what adds coverage stays."""
    folder = corpus(work, target)
    note = os.path.join(work, "corpus", target + ".minimised")
    before = 0
    if os.path.exists(note):
        with open(note, encoding="ascii") as f:
            before = int(f.read())
    if len(files(folder)) < before * 1.3 + 100 or not os.path.exists(
            binary(work, "libfuzzer", target)):
        return
    smaller = folder + ".smaller"
    shutil.rmtree(smaller, ignore_errors=True)
    os.makedirs(smaller)
    if merge(work, target, smaller, folder) and files(smaller):
        old = folder + ".old"
        os.rename(folder, old)
        os.rename(smaller, folder)
        shutil.rmtree(old)
    with open(note, "w", encoding="ascii") as f:
        f.write(str(len(files(folder))))


# --- findings ---


def is_slow(work, target, path):
    """Does an input take long, or was only the machine busy?"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = quiet([binary(work, "libfuzzer", target), f"-timeout={6 * TIMEOUT_S}",
                  f"-artifact_prefix={os.path.join(work, 'slow')}/", path],
                 os.path.join(work, "log", f"{target}.slow.log"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return code != 0 or after.ru_utime + after.ru_stime - before.ru_utime \
        - before.ru_stime > SLOW_CPU_S


def take_finding(work, target, kind, path):
    """Puts an input that broke something aside; 1, or 0 where it did not."""
    if kind in ("timeout", "hang") and not is_slow(work, target, path):
        return 0
    with open(path, "rb") as f:
        digest = hashlib.sha1(f.read()).hexdigest()
    found = os.path.join(work, "findings", f"{target}.{kind}.{digest[:16]}")
    if os.path.exists(found):
        return 0
    shutil.copyfile(path, found)
    print(f"*** FINDING {found}", file=sys.stderr)
    return 1


# --- turns ---


def dictionary(target):
    """The options that name a target's dictionary, for libFuzzer and for AFL++."""
    path = os.path.join(ROOT, "tests/fuzz/dict", target + ".dict")
    return (["-dict=" + path], ["-x", path]) if os.path.exists(path) else ([], [])


def libfuzzer_turn(work, target, seconds, log):
    """Executions, edges, features, findings."""
    broken = os.path.join(work, "broken", target)
    shutil.rmtree(broken, ignore_errors=True)
    os.makedirs(broken)
    cmd = [binary(work, "libfuzzer", target), f"-max_total_time={seconds}", "-print_final_stats=1",
           f"-rss_limit_mb={RSS_MB}", f"-timeout={TIMEOUT_S}", f"-max_len={MAX_INPUT}",
           f"-artifact_prefix={broken}/"] + dictionary(target)[0] + [corpus(work, target)]
    code = quiet(cmd, log)
    with open(log, encoding="utf-8", errors="replace") as f:
        said = f.read()
    runs = re.findall(r"stat::number_of_executed_units: (\d+)", said)
    cover = re.findall(r"cov: (\d+) ft: (\d+)", said)
    n = 0
    for path in files(broken):
        kind = os.path.basename(path).rsplit("-", 1)[0]
        if kind != "slow-unit":
            n += take_finding(work, target, kind, path)
    if code != 0 and not files(broken):
        print(f"*** fuzz_{target} ended with {code}, see {log}", file=sys.stderr)
    edges, features = map(int, cover[-1]) if cover else (0, 0)
    return int(runs[-1]) if runs else 0, edges, features, n


def afl_turn(work, target, seconds, log):
    """The same. AFL++ has its own count of edges, and no features."""
    out = os.path.join(work, "afl", target)
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    env = dict(os.environ, AFL_SKIP_CPUFREQ="1", AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES="1",
               AFL_NO_UI="1", AFL_NO_AFFINITY="1", AFL_SKIP_CRASHES="1", AFL_NO_STARTUP_CALIBRATION="1",
               AFL_FAST_CAL="1", AFL_IGNORE_PROBLEMS="1")
    cmd = ["afl-fuzz", "-i", corpus(work, target), "-o", out, "-m", "none", "-V", str(seconds),
           "-t", f"{TIMEOUT_S * 1000}+", "-G", str(MAX_INPUT)] + dictionary(target)[1]
    code = quiet(cmd + ["--", binary(work, "afl", target)], log, env=env,
                 timeout=4 * seconds + 600)
    stats = {}
    try:
        with open(os.path.join(out, "default/fuzzer_stats"), encoding="ascii") as f:
            stats = dict(re.split(r"\s*:\s*", line.strip(), maxsplit=1) for line in f)
    except OSError:
        print(f"*** afl-fuzz on fuzz_{target} ended with {code}, see {log}", file=sys.stderr)
    for path in files(os.path.join(out, "default/queue")):
        if ",orig:" not in path:
            put(corpus(work, target), path)
    n = 0
    for kind, folder in (("crash", "crashes"), ("hang", "hangs")):
        for path in files(os.path.join(out, "default", folder)):
            if os.path.basename(path).startswith("id"):
                n += take_finding(work, target, kind, path)
    return int(stats.get("execs_done", 0)), int(stats.get("edges_found", 0)), 0, n


def reap_orphans():
    """Waits for what afl-fuzz left behind, so that its time is known."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def turn(work, target, engine, seconds):
    """One turn, as the fields of a ledger's line."""
    PR_SET_CHILD_SUBREAPER = 36
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    log = os.path.join(work, "log", f"{target}.{engine}.log")
    if os.path.exists(log):
        os.replace(log, log + ".before")
    run = libfuzzer_turn if engine == "libfuzzer" else afl_turn
    runs, edges, features, findings = run(work, target, seconds, log)
    reap_orphans()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"cpu_s": round(used.ru_utime + used.ru_stime, 1), "executions": runs, "edges": edges,
            "features": features, "findings": findings}


if __name__ == "__main__":
    print(json.dumps(turn(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))))
