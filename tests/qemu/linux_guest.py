"""A Linux guest with tpm2-tools: Debian's cloud kernel, fetched and unpacked, never installed, and an
initramfs of busybox, tpm2-tools and their libraries.

    linux_guest.py FOLDER       makes FOLDER/vmlinuz and FOLDER/initramfs, if they are not there
"""

import glob
import os
import re
import shutil
import subprocess
import sys

PACKAGE = "linux-image-cloud-amd64"
TCTI = "libtss2-tcti-device.so.0"

INIT = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin TPM2TOOLS_TCTI=device:/dev/tpm0 HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo
dmesg -n 1
say() { echo "guest: $*"; }
check() { out=$("$@" 2>&1) || { say "FAILED $*: $out"; poweroff -f; }; }
show() { label=$1; shift; check "$@"; say "$label $(echo $out)"; }
cd /tmp
say "kernel $(uname -r) $(cat /sys/class/tpm/tpm0/tpm_version_major)"
show random tpm2 getrandom --hex 16
show pcr-before tpm2 pcrread sha256:16
case $(cat /proc/cmdline) in
*nvkeep=first*)
    check tpm2 pcrextend 16:sha256=0101010101010101010101010101010101010101010101010101010101010101
    show pcr-after tpm2 pcrread sha256:16
    check tpm2 nvdefine 0x1500016 -C o -s 16
    printf 'sixteen bytes...' >data
    check tpm2 nvwrite 0x1500016 -C o -i data
    check tpm2 createprimary -C o -G ecc -c primary.ctx
    check tpm2 evictcontrol -C o -c primary.ctx 0x81000016
    check tpm2 flushcontext -t
    ;;
esac
show nv tpm2 nvread 0x1500016 -C o -s 16
check tpm2 readpublic -c 0x81000016 -n name
say "name $(hexdump -v -e '1/1 "%02x"' name)"
say done
read -r line
poweroff -f
"""


class Missing(Exception):
    pass


def output(*argv):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    text = done.stdout.decode(errors="replace")
    if done.returncode:
        raise Missing(f"{' '.join(argv)}: {text.strip()[-400:]}")
    return text


def kernel_package():
    """The package that the meta-package stands for."""
    found = re.search(r"Depends: (linux-image-\S+)", output("apt-cache", "depends", PACKAGE))
    if not found:
        raise Missing(f"{PACKAGE} names no kernel")
    return found.group(1)


def fetch_kernel(folder):
    try:
        package = kernel_package()
    except Missing:
        root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        output(*root, "apt-get", "-q", "update")
        package = kernel_package()
    work = os.path.join(folder, "kernel.tmp")
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    os.chmod(work, 0o777)  # apt fetches as a user of its own
    here = os.getcwd()
    os.chdir(work)
    try:
        output("apt-get", "-q", "download", package)
    finally:
        os.chdir(here)
    output("dpkg-deb", "-x", glob.glob(os.path.join(work, "*.deb"))[0], work)
    os.rename(glob.glob(os.path.join(work, "boot", "vmlinuz-*"))[0],
              os.path.join(folder, "vmlinuz"))
    shutil.rmtree(work)


def libraries(path):
    return re.findall(r"(/\S+) \(0x", output("ldd", path))


def tool(name):
    path = shutil.which(name)
    if not path:
        raise Missing(f"{name} is missing")
    return os.path.realpath(path)


def contents():
    """{name in the guest: (mode, bytes)}"""
    def file(path):
        with open(path, "rb") as f:
            return f.read()
    tpm2 = tool("tpm2")
    folder = os.path.dirname(next(p for p in libraries(tpm2) if "libtss2-esys" in p))
    tcti = os.path.join(folder, TCTI)
    if not os.path.exists(tcti):
        raise Missing(f"{tcti} is missing (package libtss2-tcti-device0)")
    files = {d: (0o040755, b"") for d in ("bin", "proc", "sys", "dev", "tmp")}
    files["bin/busybox"] = (0o100755, file(tool("busybox")))
    files["bin/tpm2"] = (0o100755, file(tpm2))
    files["init"] = (0o100755, INIT.encode())
    for path in sorted(set(libraries(tpm2) + libraries(tcti) + [tcti])):
        parts = path.lstrip("/").split("/")
        for i in range(1, len(parts)):
            files.setdefault("/".join(parts[:i]), (0o040755, b""))
        files[path.lstrip("/")] = (0o100755, file(os.path.realpath(path)))
    return files


def cpio(files):
    """The newc format, written here: /dev/console needs no root this way."""
    def entry(name, mode, data, inode, device=(0, 0)):
        header = b"070701" + b"".join(b"%08x" % v for v in (
            inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0))
        packed = header + name.encode() + b"\0"
        packed += b"\0" * (-len(packed) % 4) + data
        return packed + b"\0" * (-len(packed) % 4)
    archive = b"".join(entry(name, mode, data, i + 1)
                       for i, (name, (mode, data)) in enumerate(files.items()))
    archive += entry("dev/console", 0o020600, b"", len(files) + 1, (5, 1))
    return archive + entry("TRAILER!!!", 0, b"", 0)


def make(folder):
    """Paths of kernel and initramfs. Missing: what is missing."""
    os.makedirs(folder, exist_ok=True)
    kernel, initramfs = os.path.join(folder, "vmlinuz"), os.path.join(folder, "initramfs")
    if not os.path.exists(kernel):
        fetch_kernel(folder)
    with open(initramfs + ".tmp", "wb") as f:
        f.write(cpio(contents()))
    os.rename(initramfs + ".tmp", initramfs)
    return kernel, initramfs


if __name__ == "__main__":
    try:
        print(*make(sys.argv[1]))
    except Missing as e:
        sys.exit(f"{PACKAGE} and its guest could not be had: {e}")
