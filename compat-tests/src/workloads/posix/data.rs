//! Bytes: reads, writes, sizes, holes, descriptors, maps.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Result, ensure};
use rustix::fs::{FallocateFlags, OFlags, copy_file_range, fallocate, ftruncate};
use rustix::io::Errno;
use serde_json::json;

use super::{Check, equal, new_file, refused, refused_io};
use crate::fixture::bytes;
use crate::workloads::peer::Peer;

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("unlinked_and_open", unlinked),
    ("truncate_and_zeros", truncate),
    ("writes_beyond_the_end", beyond),
    ("holes_and_seek_data", seek_data),
    ("a_sparse_file_of_a_tebibyte", sparse),
    ("fallocate_and_punch", punch),
    ("append_from_two_descriptors", append),
    ("append_from_two_processes", append_processes),
    ("open_truncates", open_truncates),
    ("access_modes", access_modes),
    ("descriptors_see_each_other", descriptors),
    ("synchronous_writes", synchronous),
    ("copy_file_range_between_and_within", copy_range),
    ("shared_maps", maps),
    ("a_map_sees_a_truncation", map_truncated),
    ("large_and_small_reads", patterns),
    ("concurrent_writers_of_one_file", writers),
];

fn unlinked(dir: &Path) -> Result<()> {
    let path = dir.join("f");
    let mut file = new_file(&path, b"before")?;
    fs::remove_file(&path)?;
    equal("links", file.metadata()?.nlink(), 0)?;
    file.write_all_at(b" and after", 6)?;
    let mut content = String::new();
    file.read_to_string(&mut content)?;
    equal("content", content.as_str(), "before and after")?;
    // Its name is free, and another file.
    fs::write(&path, b"another")?;
    ensure!(file.metadata()?.ino() != fs::metadata(&path)?.ino(), "one file under both");
    ftruncate(&file, 3)?;
    equal("size", file.metadata()?.len(), 3)?;
    ftruncate(&file, 5000)?;
    let mut tail = vec![1; 4997];
    file.read_exact_at(&mut tail, 3)?;
    ensure!(tail.iter().all(|byte| *byte == 0), "no zeros after growing");
    file.sync_all()?;
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    equal("mode", file.metadata()?.mode() & 0o777, 0o600)?;
    drop(file);
    equal("the other file", fs::read(&path)?, b"another".to_vec())
}

fn truncate(dir: &Path) -> Result<()> {
    let file = new_file(&dir.join("f"), &[7; 10_000])?;
    ftruncate(&file, 100)?;
    ftruncate(&file, 9_000)?;
    let content = fs::read(dir.join("f"))?;
    equal("size", content.len(), 9_000)?;
    ensure!(content[..100].iter().all(|byte| *byte == 7), "the kept part changed");
    ensure!(content[100..].iter().all(|byte| *byte == 0), "old bytes came back");
    ftruncate(&file, 0)?;
    equal("size", fs::metadata(dir.join("f"))?.len(), 0)?;
    equal("reading at the end", (&file).read(&mut [0; 10])?, 0)?;
    refused(ftruncate(File::open(dir.join("f"))?, 5), &[Errno::INVAL, Errno::BADF])
}

fn beyond(dir: &Path) -> Result<()> {
    let file = new_file(&dir.join("f"), b"x")?;
    file.write_all_at(b"y", 100_000)?;
    let content = fs::read(dir.join("f"))?;
    equal("size", content.len(), 100_001)?;
    ensure!(content[1..100_000].iter().all(|byte| *byte == 0), "the gap is not zeros");
    equal("first and last", (content[0], content[100_000]), (b'x', b'y'))?;
    equal("past the end", file.read_at(&mut [0; 10], 200_000)?, 0)?;
    equal("across the end", file.read_at(&mut [0; 10], 99_996)?, 5)
}

/// A file system may know of no holes: then all is data up to the end. What it says must be true.
fn seek_data(dir: &Path) -> Result<()> {
    use rustix::fs::{SeekFrom, seek};
    const BLOCK: u64 = 1 << 20;
    let file = new_file(&dir.join("f"), b"")?;
    let block = bytes(1, 1 << 20);
    for number in [0, 3, 4, 9] {
        file.write_all_at(&block, number * BLOCK)?;
    }
    ftruncate(&file, 12 * BLOCK)?;
    file.sync_all()?;
    let mut at = 0;
    let mut data = vec![false; 12];
    while let Ok(begin) = seek(&file, SeekFrom::Data(at)) {
        let end = seek(&file, SeekFrom::Hole(begin))?;
        ensure!(at <= begin && begin < end && end <= 12 * BLOCK, "data from {begin} to {end} after {at}");
        (begin / BLOCK..end.div_ceil(BLOCK)).for_each(|number| data[number as usize] = true);
        at = end;
        if at == 12 * BLOCK {
            break;
        }
    }
    ensure!([0, 3, 4, 9].iter().all(|number| data[*number]), "data is called a hole: {data:?}");
    refused(seek(&file, SeekFrom::Data(12 * BLOCK)), &[Errno::NXIO])?;
    refused(seek(&file, SeekFrom::Hole(13 * BLOCK)), &[Errno::NXIO])?;
    // The end of a file is a hole.
    equal(
        "hole at the end",
        seek(&file, SeekFrom::Hole(12 * BLOCK - 1))?.max(12 * BLOCK - 1),
        12 * BLOCK - 1 + { u64::from(data[11]) },
    )
}

fn sparse(dir: &Path) -> Result<()> {
    const FAR: u64 = 1 << 40;
    let file = new_file(&dir.join("f"), b"begin")?;
    file.write_all_at(b"end", FAR)?;
    file.sync_all()?;
    let stat = fs::metadata(dir.join("f"))?;
    equal("size", stat.len(), FAR + 3)?;
    ensure!(stat.blocks() * 512 < 64 << 20, "a hole takes space: {} blocks", stat.blocks());
    let mut found = [1; 3];
    file.read_exact_at(&mut found, FAR)?;
    equal("the far end", &found, b"end")?;
    file.read_exact_at(&mut found, FAR / 2)?;
    equal("the hole", found, [0; 3])
}

fn punch(dir: &Path) -> Result<()> {
    let content = bytes(5, 300_000);
    let file = new_file(&dir.join("f"), &content)?;
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 10_000, 200_000)?;
    let mut want = content;
    want[10_000..210_000].fill(0);
    ensure!(fs::read(dir.join("f"))? == want, "a punched hole is wrong");
    // A hole at the end and beyond does not change the size.
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 290_000, 100_000)?;
    want[290_000..].fill(0);
    ensure!(fs::read(dir.join("f"))? == want, "a hole at the end is wrong");
    fallocate(&file, FallocateFlags::empty(), 290_000, 50_000)?;
    want.resize(340_000, 0);
    ensure!(fs::read(dir.join("f"))? == want, "allocating past the end is wrong");
    fallocate(&file, FallocateFlags::KEEP_SIZE, 340_000, 50_000)?;
    equal("size", file.metadata()?.len(), 340_000)?;
    match fallocate(&file, FallocateFlags::ZERO_RANGE, 0, 5_000) {
        Ok(()) => want[..5_000].fill(0),
        Err(error) => ensure!(error == Errno::OPNOTSUPP, "{error:?}"),
    }
    file.sync_all()?;
    ensure!(fs::read(dir.join("f"))? == want, "zeroing is wrong");
    Ok(())
}

fn append(dir: &Path) -> Result<()> {
    let open = || File::options().append(true).create(true).open(dir.join("f"));
    let (mut one, mut two) = (open()?, open()?);
    let mut want = Vec::new();
    for number in 0..200 {
        let line = format!("line {number}\n");
        if number % 2 == 0 { &mut one } else { &mut two }.write_all(line.as_bytes())?;
        want.extend(line.bytes());
    }
    ensure!(fs::read(dir.join("f"))? == want, "appends overwrite each other");
    // A position has no meaning for an append.
    one.seek(SeekFrom::Start(0))?;
    one.write_all(b"at the end")?;
    ensure!(fs::read(dir.join("f"))?.ends_with(b"at the end"), "an append went to its position");
    Ok(())
}

fn append_processes(dir: &Path) -> Result<()> {
    let path = dir.join("f");
    fs::write(&path, b"")?;
    let writers = ["a", "b"].map(|word| {
        let mut command = std::process::Command::new("sh");
        command
            .arg("-c")
            .arg(format!("for i in 1 2 3 4 5 6 7 8 9; do for j in 1 2 3 4 5; do echo {word}$i$j >>f; done; done"));
        command.current_dir(dir).spawn()
    });
    for writer in writers {
        ensure!(writer?.wait()?.success(), "a writer failed");
    }
    let text = fs::read_to_string(&path)?;
    let lines: std::collections::BTreeSet<&str> = text.lines().collect();
    equal("lines", (text.lines().count(), lines.len()), (90, 90))
}

fn open_truncates(dir: &Path) -> Result<()> {
    let old = new_file(&dir.join("f"), &bytes(1, 50_000))?;
    let inode = old.metadata()?.ino();
    let new = File::create(dir.join("f"))?;
    equal("size through the old descriptor", old.metadata()?.len(), 0)?;
    new.write_all_at(b"new", 0)?;
    let mut content = [0; 3];
    old.read_exact_at(&mut content, 0)?;
    equal("content through the old descriptor", &content, b"new")?;
    equal("inode", new.metadata()?.ino(), inode)
}

fn access_modes(dir: &Path) -> Result<()> {
    fs::write(dir.join("f"), b"content")?;
    refused_io(File::open(dir.join("f"))?.write(b"x"), &[Errno::BADF])?;
    refused_io(File::options().write(true).open(dir.join("f"))?.read(&mut [0; 1]), &[Errno::BADF])?;
    // Part of a page through a descriptor that cannot read.
    File::options().write(true).open(dir.join("f"))?.write_all_at(b"XY", 2)?;
    equal("content", fs::read(dir.join("f"))?, b"coXYent".to_vec())
}

/// A write is seen by every later read, through whichever descriptor, without a sync.
fn descriptors(dir: &Path) -> Result<()> {
    let writer = new_file(&dir.join("f"), &[0; 20_000])?;
    let reader = File::open(dir.join("f"))?;
    for number in 0..200_u32 {
        let at = u64::from(number) * 97 % 19_000;
        writer.write_all_at(&number.to_le_bytes(), at)?;
        let mut found = [0; 4];
        reader.read_exact_at(&mut found, at)?;
        equal("a read after a write", u32::from_le_bytes(found), number)?;
    }
    writer.write_all_at(b"longer", 50_000)?;
    equal("size", reader.metadata()?.len(), 50_006)?;
    equal("size by name", fs::metadata(dir.join("f"))?.len(), 50_006)
}

fn synchronous(dir: &Path) -> Result<()> {
    for (name, flag) in [("sync", OFlags::SYNC), ("dsync", OFlags::DSYNC)] {
        let flags = i32::try_from(flag.bits())?;
        let mut file = File::options().write(true).create(true).custom_flags(flags).open(dir.join(name))?;
        for _ in 0..5 {
            file.write_all(&[1; 3000])?;
        }
        equal("size", fs::metadata(dir.join(name))?.len(), 15_000)?;
    }
    let file = File::open(dir.join("sync"))?;
    file.sync_data()?;
    file.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok(())
}

fn copy_range(dir: &Path) -> Result<()> {
    let content = bytes(3, 400_000);
    let from = new_file(&dir.join("from"), &content)?;
    let to = new_file(&dir.join("to"), &[9; 50_000])?;
    let copy = |to: &File, mut source: u64, mut target: u64, length: usize| -> Result<usize> {
        let mut copied = 0;
        while copied < length {
            let step = copy_file_range(&from, Some(&mut source), to, Some(&mut target), length - copied)?;
            if step == 0 {
                break;
            }
            copied += step;
        }
        Ok(copied)
    };
    equal("copied", copy(&to, 1_000, 20_000, 300_000)?, 300_000)?;
    let mut want = vec![9; 20_000];
    want.extend(&content[1_000..301_000]);
    ensure!(fs::read(dir.join("to"))? == want, "a copy differs");
    equal("copied at the end", copy(&to, 399_990, 0, 100)?, 10)?;
    equal("copied past the end", copy(&to, 500_000, 0, 100)?, 0)?;
    equal("copied within", copy(&from, 0, 350_000, 100_000)?, 100_000)?;
    let mut want = content.clone();
    want.truncate(350_000);
    want.extend(&content[..100_000]);
    ensure!(fs::read(dir.join("from"))? == want, "a copy within a file differs");
    Ok(())
}

fn maps(dir: &Path) -> Result<()> {
    let path = dir.join("f");
    let file = new_file(&path, &[b'-'; 10_000])?;
    let (mut one, mut two) = (Peer::start()?, Peer::start()?);
    for peer in [&mut one, &mut two] {
        peer.open("f", &path)?;
        peer.ask(&json!(["map", "f", 10_000]))?;
    }
    one.ask(&json!(["poke", "f", 5_000, "mapped"]))?;
    equal("through the other map", two.ask(&json!(["peek", "f", 5_000, 6]))?, json!("mapped"))?;
    let mut found = [0; 6];
    file.read_exact_at(&mut found, 5_000)?;
    equal("through a read", &found, b"mapped")?;
    file.write_all_at(b"written", 100)?;
    equal("a write through a map", two.ask(&json!(["peek", "f", 100, 7]))?, json!("written"))?;
    one.ask(&json!(["msync", "f"]))?;
    for peer in [&mut one, &mut two] {
        peer.ask(&json!(["unmap", "f"]))?;
        peer.ask(&json!(["close", "f"]))?;
    }
    let content = fs::read(&path)?;
    equal("size", content.len(), 10_000)?;
    equal("at the end", (&content[5_000..5_006], &content[100..107]), (&b"mapped"[..], &b"written"[..]))
}

/// What a truncation cut off is not there again when the file grows, through a map neither.
fn map_truncated(dir: &Path) -> Result<()> {
    let path = dir.join("f");
    let file = new_file(&path, &[b'x'; 8_192])?;
    let mut peer = Peer::start()?;
    peer.open("f", &path)?;
    peer.ask(&json!(["map", "f", 8_192]))?;
    peer.ask(&json!(["poke", "f", 0, "y"]))?;
    ftruncate(&file, 100)?;
    ftruncate(&file, 8_192)?;
    equal("after the cut", peer.ask(&json!(["peek", "f", 98, 4]))?, json!("xx\u{0}\u{0}"))?;
    equal("on the next page", peer.ask(&json!(["peek", "f", 5_000, 2]))?, json!("\u{0}\u{0}"))
}

fn patterns(dir: &Path) -> Result<()> {
    let content = bytes(11, 3_000_000);
    let path = dir.join("f");
    let mut file = File::create(&path)?;
    let mut at = 0;
    for step in [1, 4_095, 4_096, 4_097, 131_072, 131_073, 1_000_000, 512].iter().cycle() {
        if at == content.len() {
            break;
        }
        let end = content.len().min(at + step);
        file.write_all(&content[at..end])?;
        at = end;
    }
    drop(file);
    let file = File::open(&path)?;
    for (begin, length) in [(0, 3_000_000), (2_999_999, 1), (4_095, 2), (131_071, 131_074), (1_234_567, 999_999)] {
        let mut found = vec![0; length];
        file.read_exact_at(&mut found, begin)?;
        let begin = usize::try_from(begin)?;
        ensure!(found == content[begin..begin + length], "{length} bytes at {begin} differ");
    }
    // Backwards.
    let mut found = vec![0; 10_000];
    for begin in (0..content.len() - 10_000).step_by(99_991).rev() {
        file.read_exact_at(&mut found, begin as u64)?;
        ensure!(found == content[begin..begin + 10_000], "bytes at {begin} differ");
    }
    Ok(())
}

/// Writers of parts that do not overlap do not disturb each other, at whatever byte the parts meet.
fn writers(dir: &Path) -> Result<()> {
    const PART: usize = 33_333;
    let path = dir.join("f");
    fs::write(&path, b"")?;
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..6_u8)
            .map(|number| {
                let path = &path;
                scope.spawn(move || -> Result<()> {
                    let file = File::options().write(true).open(path)?;
                    for piece in 0..PART / 303 {
                        let begin = usize::from(number) * PART + piece * 303;
                        file.write_all_at(&[number + 1; 303], begin as u64)?;
                    }
                    file.write_all_at(&[number + 1; 303], (usize::from(number) * PART + PART - 303) as u64)?;
                    Ok(())
                })
            })
            .collect();
        writers.into_iter().try_for_each(|writer| writer.join().unwrap_or_else(|_| anyhow::bail!("a writer panicked")))
    })?;
    let content = fs::read(&path)?;
    equal("size", content.len(), 6 * PART)?;
    for (number, part) in (1_u8..).zip(content.chunks(PART)) {
        ensure!(part.iter().all(|byte| *byte == number), "part {number} was disturbed");
    }
    Ok(())
}
