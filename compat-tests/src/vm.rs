//! A virtual machine whose disk is a file: the hardest honest user of a file system that a test can start.
//!
//! qemu without KVM (it takes three seconds until the guest is up) boots Debian's cloud kernel with an initramfs of busybox.
//! The guest mounts ext4 on the disk and works in numbered steps, each ending with `fsync` or `sync`; then it prints
//! `BARRIER n`, with the MD5 of what it wrote. So the host knows what the guest was promised without asking the disk:
//!
//! ```text
//! Kit (qemu, kernel, initramfs) ── boot(job) ── Guest: await_barrier(k), kill -9, console ── Promise
//! image::make ─── disk file ── after a crash: image::replayed (a copy: e2fsck -p, e2fsck -fn) ── image::look ── Seen
//!                              or a second boot: Job::Verify ── Guest::seen ─────────────────────────────────── Seen
//! Promise::reached(Seen) ── the barrier that the disk shows, or why it shows none
//! ```
//!
//! Deliberately absent: KVM (it does not work everywhere this runs), a network, more than one disk.

pub mod image;
mod promise;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

pub use promise::{Promise, Seen};

use crate::client::command;
use crate::process::{Launch, Process, tail, wait_until};
use crate::skip::{program, skip, tools_dir};

/// Files that the guest keeps; each new one removes the one this many rounds older.
const KEEP: u32 = 20;
/// Blocks of 4 KiB of the file that the guest writes in place.
const BLOCKS: u32 = 32;
/// What the guest loads before it sees its disk; the modules that these depend on come first.
const MODULES: [&str; 2] = ["virtio_pci", "virtio_blk"];
const MEMORY_MIB: &str = "128";

/// How qemu writes to the disk file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Through the page cache; a flush of the guest is an `fdatasync`.
    Writeback,
    /// `O_DIRECT`; a flush of the guest is an `fdatasync`.
    None,
    /// `O_DIRECT` and `O_DSYNC`: each write is synced.
    DirectSync,
}

impl Cache {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Writeback, Self::None, Self::DirectSync];

    fn word(self) -> &'static str {
        match self {
            Self::Writeback => "writeback",
            Self::None => "none",
            Self::DirectSync => "directsync",
        }
    }
}

/// What the guest does before it powers off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// `steps` steps, the first numbered `from`; 0 steps: without end. The first boot on a disk begins with step 1.
    Work {
        /// The first step.
        from: u32,
        /// How many.
        steps: u32,
    },
    /// Prints what is on the disk.
    Verify,
    /// Nothing: for the time of a boot.
    Poweroff,
}

impl Job {
    fn words(self) -> String {
        let (job, from, steps) = match self {
            Self::Work { from, steps } => ("work", from, steps),
            Self::Verify => ("verify", 1, 0),
            Self::Poweroff => ("poweroff", 1, 0),
        };
        format!("job={job} from={from} steps={steps} keep={KEEP} blocks={BLOCKS}")
    }
}

/// What is needed to boot: made once, used for any number of guests.
#[derive(Debug)]
pub struct Kit {
    qemu: PathBuf,
    kernel: PathBuf,
    dir: TempDir,
}

impl Kit {
    /// Finds the programs and the kernel, and packs the initramfs.
    ///
    /// # Errors
    /// A skip when something is not installed; otherwise when packing fails.
    pub fn new() -> Result<Self> {
        let qemu = program(&["qemu-system-x86_64"], "apt-get install --no-install-recommends qemu-system-x86")?;
        image::programs()?;
        let kept = tools_dir().join("kernel");
        if !kept.join("complete").is_file() {
            return Err(skip(format!("no guest kernel in {}: make tools", kept.display())));
        }
        let dir = tempfile::tempdir()?;
        pack(&kept.join("modules"), dir.path())?;
        Ok(Self { qemu, kernel: kept.join("vmlinuz"), dir })
    }

    /// Boots a guest on the disk file `image`. What it prints goes to `console`, which is begun anew.
    ///
    /// # Errors
    /// When qemu cannot be started.
    pub fn boot(&self, image: &Path, cache: Cache, job: Job, console: &Path) -> Result<Guest> {
        if console.exists() {
            std::fs::remove_file(console)?;
        }
        let words = [
            "-nodefaults -no-user-config -machine pc -accel tcg -smp 1 -display none -serial stdio -monitor none -no-reboot",
            "-m",
            MEMORY_MIB,
        ];
        let mut args: Vec<OsString> = words.iter().flat_map(|part| part.split(' ')).map(OsString::from).collect();
        let append = format!("console=ttyS0 quiet panic=-1 no_timer_check mitigations=off {}", job.words());
        // With "report" the guest hears of a failed write, as from a disk; the default would stop it when the disk is full.
        let cache = cache.word();
        let options = format!("if=virtio,format=raw,cache={cache},werror=report,rerror=report,file=");
        // A comma in an option's value is written twice.
        let drive = options + &image.to_str().context("the path of the image is not UTF-8")?.replace(',', ",,");
        args.extend(["-kernel".into(), self.kernel.clone().into(), "-initrd".into()]);
        args.extend([self.dir.path().join("initrd").into(), "-append".into(), append.into()]);
        args.extend(["-drive".into(), drive.into()]);
        let launch = Launch { program: self.qemu.clone(), args, env: Vec::new(), log: console.to_owned() };
        Ok(Guest { process: Process::start(&launch)? })
    }

    /// Boots a guest that prints what is on `image`, and waits for it.
    ///
    /// # Errors
    /// When it does not come to its end within `deadline`.
    pub fn verify(&self, image: &Path, cache: Cache, deadline: Duration) -> Result<Seen> {
        let mut guest = self.boot(image, cache, Job::Verify, &self.dir.path().join("verify.log"))?;
        guest.await_end(deadline)?;
        Seen::of_console(&guest.console())
    }
}

/// A running guest. Dropping it kills qemu.
#[derive(Debug)]
pub struct Guest {
    process: Process,
}

impl Guest {
    /// What the guest has printed.
    #[must_use]
    pub fn console(&self) -> String {
        self.process.output()
    }

    /// Everything the guest was promised so far.
    #[must_use]
    pub fn promise(&self) -> Promise {
        Promise::of_console(&self.console())
    }

    /// The process of qemu.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until step `number` is done.
    ///
    /// # Errors
    /// When the guest ends or fails before, or it takes longer than `deadline`; the error carries its console.
    pub fn await_barrier(&mut self, number: u32, deadline: Duration) -> Result<()> {
        let what = format!("barrier {number} of the guest");
        wait_until(&what, deadline, || {
            let running = self.process.is_running()?;
            let console = self.console();
            if Promise::of_console(&console).last() >= Some(number) {
                return Ok(true);
            }
            ensure!(running && !console.contains("FAILED"), "the guest ended before barrier {number}");
            Ok(false)
        })
        .with_context(|| tail(&self.console(), 15))
    }

    /// Ends qemu at once, as a crash of its host's process would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Waits until the guest has powered off by itself.
    ///
    /// # Errors
    /// When it fails, or takes longer than `deadline`.
    pub fn await_end(&mut self, deadline: Duration) -> Result<()> {
        let ended = self.process.wait(deadline);
        let console = self.console();
        let status = ended.with_context(|| tail(&console, 15))?;
        let done = console.lines().any(|line| line.starts_with("DONE "));
        if !status.success() || !done {
            bail!("the guest ended with {status}:\n{}", tail(&console, 15));
        }
        Ok(())
    }
}

/// Writes `dir/initrd`: busybox, the modules in the order in which they can be loaded, and the script.
fn pack(modules: &Path, dir: &Path) -> Result<()> {
    let busybox = program(&["/bin/busybox", "/usr/bin/busybox"], "apt-get install busybox-static")?;
    let cpio = program(&["cpio"], "apt-get install cpio")?;
    let tree = dir.join("tree");
    for folder in ["bin", "modules"] {
        std::fs::create_dir_all(tree.join(folder))?;
    }
    std::fs::copy(busybox, tree.join("bin/busybox"))?;
    let order = load_order(modules)?;
    for module in &order {
        let file = format!("{module}.ko");
        std::fs::copy(modules.join(&file), tree.join("modules").join(&file))?;
    }
    std::fs::write(tree.join("modules/order"), order.join("\n") + "\n")?;
    std::fs::write(tree.join("init"), include_str!("vm/init.sh"))?;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(tree.join("init"), std::fs::Permissions::from_mode(0o755))?;
    let names = "init\nbin\nbin/busybox\nmodules\nmodules/order\n".to_owned()
        + &order.iter().map(|module| format!("modules/{module}.ko\n")).collect::<String>();
    let mut packing = Command::new(cpio);
    packing.args(["-o", "-H", "newc", "-O", "../initrd"]).current_dir(&tree);
    let output = command::finish(packing, names.as_bytes())?;
    ensure!(output.code == Some(0), "cpio: {}", output.stderr);
    Ok(())
}

/// [`MODULES`] and what they depend on, each after its dependencies.
fn load_order(modules: &Path) -> Result<Vec<String>> {
    let mut order = Vec::new();
    for module in MODULES {
        add_module(modules, module, &mut order)?;
    }
    Ok(order)
}

fn add_module(modules: &Path, module: &str, order: &mut Vec<String>) -> Result<()> {
    if order.iter().any(|known| known == module) {
        return Ok(());
    }
    let path = modules.join(format!("{module}.ko"));
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    for needed in depends(&bytes).split(',').filter(|name| !name.is_empty()) {
        add_module(modules, needed, order)?;
    }
    order.push(module.to_owned());
    Ok(())
}

/// The names after `depends=` in a module's `.modinfo`. (`modules.dep` says the same, but a package brings none: it is made
/// when the package is installed.)
fn depends(module: &[u8]) -> String {
    const FIELD: &[u8] = b"\0depends=";
    let found = module.windows(FIELD.len()).position(|window| window == FIELD);
    let value = found.map(|at| &module[at + FIELD.len()..]).unwrap_or_default();
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::depends;

    #[test]
    fn dependencies_are_read_from_a_module() {
        let check = |module: &[u8], expected: &str| assert_eq!(depends(module), expected);
        check(b"ELF\0author=x\0depends=virtio,virtio_ring\0retpoline=Y\0", "virtio,virtio_ring");
        check(b"ELF\0depends=\0x", "");
        check(b"ELF", "");
    }
}
