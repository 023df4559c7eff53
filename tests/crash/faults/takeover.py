"""A hand-over to another daemon on the same image, in which that daemon's calls fail."""

import os
import shutil
import subprocess
import time

from harness.process import Failure
from harness.tpm import u32

from .commands import INDEX, Broken
from .operations import CTRL_REFUSALS, Operation
from .service import NV_BYTES, Service

KINDS = (1, 2, 3)


class Source(Service):
    """Where the TPM comes from: nothing fails in it, and it is under no tool."""

    def __init__(self, tools, folder):
        super().__init__(tools, None, folder, output="source")
        self.child = None

    def path(self, name):
        return super().path("source-" + name)

    def start(self):
        self.child = subprocess.Popen(
            [self.tools.nvkeep, "serve", "i", "--key", "file=k", "--ctrl", "type=unixio,path=source-c",
             "--server", "type=unixio,path=source-d", "--log", "file=source-l"], cwd=self.folder,
            stdin=subprocess.DEVNULL)
        end = time.monotonic() + 30
        while not os.path.exists(self.path("d")):
            if self.child.poll() is not None or time.monotonic() > end:
                raise Broken("the source does not start")
            time.sleep(0.002)
        self.settle()
        return self

    def give_away(self):
        """[(flags, blob)]"""
        blobs = []
        for kind in KINDS:
            result, flags, blob = self.ctrl.get_state(kind)
            if result not in (0, 0x800):
                raise Broken(f"the source refuses blob {kind}: {result:#x}")
            blobs.append((flags, blob))
        return blobs

    def comes_back(self):
        return self.ctrl.result(0x13, u32(0)) == 0

    def kill(self):
        self.hang_up()
        if self.child:
            self.child.kill()
            self.child.wait()


class TakeOver(Operation):
    """SET_STATEBLOB and INIT. Each try has a fresh image, and a fresh pair of daemons."""

    def __init__(self, tools, control, base, image):
        super().__init__("SET_STATEBLOB, INIT (target)")
        self.tools, self.control, self.image = tools, control, image
        self.folder = os.path.join(base, "takeover")

    def set_scene(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        os.mkdir(self.folder)
        for name in ("i", "k"):
            shutil.copyfile(os.path.join(self.image, name), os.path.join(self.folder, name))
        self.source = Source(self.tools, self.folder).start()
        self.target = Service(self.tools, self.control, self.folder,
                              ("--migration", "incoming"), "target").start()
        self.target.connect()
        self.content = self.source.tpm.nv_read(INDEX, NV_BYTES)
        self.blobs = self.source.give_away()
        for name in ("key", "name", "session", "digest", "pcr"):
            setattr(self.target, name, getattr(self.source, name))

    def end(self):
        self.source.kill()
        self.target.kill()

    def refusals(self, fault):
        del fault
        return CTRL_REFUSALS | {0x101}  # libtpms without memory

    def do(self, service):
        for kind, (flags, blob) in zip(KINDS, self.blobs):
            result = service.ctrl.set_state(kind, flags, blob) if blob else 0
            if result:
                return result
        return service.ctrl.result(0x02, u32(0))

    def serves(self, service):
        """None, or what is missing of the guest's TPM there."""
        wrong = service.complaint()
        if wrong:
            return wrong
        return None if service.tpm.pcr_read(16) == service.pcr else "the PCR is another one"

    def starts_anew(self):
        """Everything is ended and one daemon started on the image: the stored state is whole."""
        self.end()
        service = Service(self.tools, self.control, self.folder, output="anew").start()
        service.settle()
        content = service.tpm.nv_read(INDEX, NV_BYTES)
        service.kill()
        if content != self.content:
            raise Failure(f"after a new start there is {content}")

    def where(self, source_first):
        """Who has the TPM now, everything loaded; exactly one. A Failure says why nobody has."""
        order = [(self.source, self.source.comes_back), (self.target, lambda: self.do(self.target) == 0)]
        for service, take in order if source_first else order[::-1]:
            service.connect()
            if take():
                wrong = self.serves(service)
                if wrong:
                    raise Failure(f"{wrong}; the logs end: {self.source.log()[-300:]}; "
                                  f"{self.target.log()[-500:]}")
                return service
        raise Failure(f"neither source nor target has the TPM; the target's log ends: "
                      f"{self.target.log()[-400:]}")
