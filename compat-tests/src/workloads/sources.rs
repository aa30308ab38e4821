//! What developers do: git, tar and make on trees of sources.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Ground, Report, tool};
use crate::client::command::succeed;
use crate::fixture::{self, same_tree, tree_hashes};

const GET_GIT: &str = "apt-get install git";
const FILES: usize = 300;
const COMMITS: u32 = 6;
const UNITS: u32 = 40;

/// init, commits, branches, merge, clone, fetch, gc, fsck, worktree; the clone is compared with its source.
///
/// # Errors
/// A skip without git; otherwise what it says.
pub fn git(dir: &Path, effort: u32) -> Result<Report> {
    let mut ground = Ground::new(dir, "git")?;
    let source = ground.join("source");
    let files = FILES * effort as usize;
    fixture::source_tree(&source, files)?;
    // A tree of real sources may bring settings of its own for git.
    remove_named(&source, &[".gitignore", ".gitattributes", ".gitmodules"])?;
    run(&source, &["init", "-q", "-b", "main"])?;
    ground.timed("first commit", || commit(&source, "first"))?;
    for number in 0..COMMITS {
        for file in 0..5 {
            let path = source.join(format!("changed-{file}.txt"));
            std::fs::write(&path, fixture::bytes(u64::from(number * 5 + file), 3000))?;
        }
        commit(&source, &format!("change {number}"))?;
    }
    run(&source, &["switch", "-q", "-c", "other", "HEAD~2"])?;
    std::fs::write(source.join("of the other branch"), "x")?;
    commit(&source, "other")?;
    run(&source, &["switch", "-q", "main"])?;
    run(&source, &["merge", "-q", "--no-edit", "other"])?;
    let clone = ground.join("clone");
    ground.timed("clone", || {
        // Over the protocol, not by hard links.
        let url = format!("file://{}", source.display());
        run(ground_of(&source)?, &["clone", "-q", &url, "clone"])
    })?;
    let (mut here, mut there) = (tree_hashes(&source)?, tree_hashes(&clone)?);
    for tree in [&mut here, &mut there] {
        tree.retain(|path, _| !path.starts_with(".git"));
    }
    same_tree(&here, &there)?;
    std::fs::write(source.join("one more"), "x")?;
    commit(&source, "one more")?;
    run(&clone, &["pull", "-q", "--ff-only"])?;
    run(&clone, &["worktree", "add", "-q", "../tree", "other"])?;
    ground.timed("gc", || run(&source, &["gc", "-q", "--aggressive", "--prune=now"]))?;
    for repository in [&source, &clone] {
        run(repository, &["fsck", "--full", "--strict"])?;
        let status = run(repository, &["status", "--porcelain"])?;
        ensure!(status.is_empty(), "git sees changes that nobody made: {status}");
    }
    ground.figure("files", f64::from(u32::try_from(files)?));
    Ok(ground.finish())
}

fn ground_of(path: &Path) -> Result<&Path> {
    path.parent().context("a tree has a directory")
}

fn run(dir: &Path, args: &[&str]) -> Result<String> {
    let mut command = tool("git", GET_GIT, dir)?;
    for (name, value) in [("user.name", "tests"), ("user.email", "tests@example.com"), ("core.fsync", "all")] {
        command.args(["-c", &format!("{name}={value}")]);
    }
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").args(args);
    succeed(command)
}

fn commit(dir: &Path, message: &str) -> Result<String> {
    run(dir, &["add", "-A"])?;
    run(dir, &["commit", "-q", "-m", message])
}

fn remove_named(dir: &Path, names: &[&str]) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_named(&entry.path(), names)?;
        } else if names.iter().any(|name| entry.file_name() == *name) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A tree of sources is packed here and unpacked there: the same bytes, modes, times and links.
///
/// # Errors
/// When something differs.
pub fn tar(dir: &Path, effort: u32) -> Result<Report> {
    let mut ground = Ground::new(dir, "tar")?;
    let outside = fixture::client_dir()?;
    let tree = outside.path().join("tree");
    fixture::source_tree(&tree, FILES * effort as usize)?;
    std::os::unix::fs::symlink("../somewhere else", tree.join("a link"))?;
    std::fs::write(tree.join("one"), "two names")?;
    std::fs::hard_link(tree.join("one"), tree.join("another"))?;
    let there = ground.join("unpacked");
    std::fs::create_dir(&there)?;
    let archive = outside.path().join("tree.tar");
    pack(&tree, &archive)?;
    ground.timed("extract", || unpack(&archive, &there))?;
    same_tree(&tree_hashes(&tree)?, &tree_hashes(&there)?)?;
    compare(&archive, &there)?;
    // And the other way: read from there, archive and all.
    let again = ground.join("again.tar");
    ground.timed("create", || pack(&there, &again))?;
    compare(&again, &tree)?;
    ground.timed("rm -rf", || Ok(std::fs::remove_dir_all(&there)?))?;
    ensure!(!there.exists(), "it is still there");
    Ok(ground.finish())
}

fn pack(tree: &Path, archive: &Path) -> Result<()> {
    let mut packing = Command::new("tar");
    packing.args(["--format=posix", "-cf"]).arg(archive).arg("-C").arg(tree).arg(".");
    succeed(packing).map(|_| ())
}

fn unpack(archive: &Path, there: &Path) -> Result<()> {
    let mut unpacking = Command::new("tar");
    unpacking.args(["--same-permissions", "-xf"]).arg(archive).arg("-C").arg(there);
    succeed(unpacking).map(|_| ())
}

/// tar's own comparison: content, type, mode, owner, size, time, links.
fn compare(archive: &Path, tree: &Path) -> Result<()> {
    let mut comparing = Command::new("tar");
    comparing.arg("-df").arg(archive).arg("-C").arg(tree);
    succeed(comparing).map(|_| ())
}

/// A C program of many files is built with `make -j2`, run, changed, built again (only what changed), and cleaned.
///
/// # Errors
/// A skip without make and gcc; otherwise what fails.
pub fn make(dir: &Path, effort: u32) -> Result<Report> {
    let mut ground = Ground::new(dir, "make")?;
    let units = UNITS * effort;
    write_program(ground.path(), units)?;
    let making = |target: &str| {
        crate::skip::program(&["gcc"], "apt-get install gcc")?;
        let mut command = tool("make", "apt-get install make", ground.path())?;
        command.args(["-j2", target]);
        succeed(command)
    };
    let began = std::time::Instant::now();
    making("all")?;
    let seconds = began.elapsed().as_secs_f64();
    let total: u32 = (0..units).sum();
    let program = || succeed(Command::new(ground.join("program")));
    ensure!(program()?.trim() == total.to_string(), "the program says something else");
    let nothing = making("all")?;
    ensure!(!nothing.contains("gcc"), "times are not kept, it is built again: {nothing}");
    std::fs::write(ground.join("unit0.c"), "int unit0(void) { return 1000; }\n")?;
    let again = making("all")?;
    ensure!(again.matches("gcc -c").count() == 1, "one file changed, and this is built: {again}");
    ensure!(program()?.trim() == (total + 1000).to_string(), "an old program runs");
    making("clean")?;
    ground.figure("make -j2 s", seconds);
    ground.figure("units", f64::from(units));
    Ok(ground.finish())
}

fn write_program(dir: &Path, units: u32) -> Result<()> {
    let mut main = String::from("#include <stdio.h>\n#include \"all.h\"\nint main(void) {\n    int sum = 0;\n");
    let mut header = String::new();
    for unit in 0..units {
        writeln!(main, "    sum += unit{unit}();")?;
        writeln!(header, "int unit{unit}(void);")?;
        // Some bulk, so that the assembler and the linker have something to write.
        let table: Vec<String> = (0..2000).map(|number| (number * (unit + 1) % 9973).to_string()).collect();
        let text = format!(
            "#include \"all.h\"\nconst int table{unit}[] = {{{}}};\nint unit{unit}(void) {{ return {unit}; }}\n",
            table.join(",")
        );
        std::fs::write(dir.join(format!("unit{unit}.c")), text)?;
    }
    main += "    printf(\"%d\\n\", sum);\n    return 0;\n}\n";
    std::fs::write(dir.join("main.c"), main)?;
    std::fs::write(dir.join("all.h"), header)?;
    std::fs::write(
        dir.join("Makefile"),
        "OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))\nall: program\nprogram: library.a\n\tgcc -o $@ main.o library.a\n\
         library.a: $(OBJECTS)\n\tar rcs $@ $(OBJECTS)\n%.o: %.c all.h\n\tgcc -c -g -O1 -o $@ $<\n\
         clean:\n\trm -f *.o library.a program\n",
    )?;
    Ok(())
}
