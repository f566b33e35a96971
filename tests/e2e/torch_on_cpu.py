"""Lets the CUDA build of torch be imported on a machine without CUDA libraries.

On x86-64 the registry's torch wheel is linked against some 4 GB of CUDA libraries that a test on
the CPU never calls. For each of them that is not installed in this environment a small stand-in is
linked into torch/lib: it has the symbols and versions that torch asks for, each a function that
returns 1 (an error in every one of those interfaces), so torch finds no GPU and works on the CPU.
Needs gcc and binutils. Does nothing where torch can be imported already.

    python torch_on_cpu.py      # in the environment that holds torch
"""
import collections
import importlib.util
import pathlib
import re
import subprocess
import sys
import tempfile

VENDOR = re.compile(r"lib(cu|nccl|nv)[A-Za-z_]*\.so\.\d+$")
REAL = {"libcudart.so"}  # registers kernels while torch loads: its small package is installed


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def wanted(libraries):
    """{soname: {version or "": set of symbols}}: what torch's own libraries ask the vendor's
    for."""
    needs = collections.defaultdict(lambda: collections.defaultdict(set))
    loose, owner = set(), {}
    for library in libraries:
        for soname in re.findall(r"NEEDED.*\[(.*)\]", output("readelf", "-dW", library)):
            if VENDOR.match(soname):
                needs[soname]
        soname = None
        for line in output("readelf", "-VW", library).splitlines():
            if match := re.search(r"Version: \d+\s+File: (\S+)", line):
                soname = match[1]
            elif match := re.search(r"Name: (\S+)\s+Flags", line):
                owner[match[1]] = soname
        for line in output("nm", "-D", "--undefined-only", library).splitlines():
            name, _, version = line.split()[-1].partition("@")
            version = version.lstrip("@")
            if version and VENDOR.match(owner.get(version) or ""):
                needs[owner[version]][version].add(name)
            elif not version and re.match(r"(cu|nccl|nv)[A-Za-z]", name):
                loose.add(name)
    names = {soname: re.match(r"lib([A-Za-z]+)", soname)[1] for soname in needs}
    for symbol in loose:  # without a version: into the library of that name, else into any
        fits = [soname for soname in needs if symbol.lower().startswith(names[soname].lower())]
        home = max(fits, key=lambda soname: len(names[soname]), default=min(needs))
        needs[home][""].add(symbol)
    return needs


def link(soname, versions, folder):
    with tempfile.TemporaryDirectory() as work:
        source, script = pathlib.Path(work, "s.c"), pathlib.Path(work, "s.map")
        symbols = sorted(set().union(*versions.values())) if versions else []
        source.write_text("".join(f"int {name}(void) {{ return 1; }}\n" for name in symbols))
        script.write_text("".join(f"{version} {{ global: {'; '.join(sorted(names))}; }};\n"
                                  for version, names in versions.items() if version and names))
        extra = [f"-Wl,--version-script={script}"] if script.stat().st_size else []
        subprocess.run(["gcc", "-shared", "-fPIC", "-nostdlib", "-w", "-fno-builtin",
                        f"-Wl,-soname,{soname}", *extra, "-o", folder / soname, source], check=True)


def main():
    if subprocess.run([sys.executable, "-c", "import torch"], capture_output=True).returncode == 0:
        return 0
    folder = pathlib.Path(importlib.util.find_spec("torch").submodule_search_locations[0]) / "lib"
    installed = {path.name for path in folder.parent.parent.glob("nvidia/**/*.so.*")}
    for soname, versions in wanted(sorted(map(str, folder.glob("*.so")))).items():
        if soname not in installed and soname.rsplit(".", 1)[0] not in REAL:
            link(soname, versions, folder)
    return subprocess.run([sys.executable, "-c", "import torch"]).returncode


if __name__ == "__main__":
    sys.exit(main())
