"""What pyproject.toml cannot say: the wheel has the manifest and the trained weights, which lie beside the packages."""

from pathlib import Path
from shutil import copyfile

from setuptools import setup
from setuptools.command.build_py import build_py

#: What somebody needs to run a trained network and to know how it came about.
WANTED = ("*.md", "*.toml", "*.json", "*.csv", "*.svg", "*.safetensors")


class WithWeights(build_py):
    def run(self):
        super().run()
        if self.editable_mode:
            return
        source, target = Path("weights"), Path(self.build_lib, "ferplus_keras", "weights")
        trained = [path for pattern in WANTED for path in (source / "trained").rglob(pattern)]
        for path in (source / "manifest.toml", *trained):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copyfile(path, copy)


setup(cmdclass={"build_py": WithWeights})
