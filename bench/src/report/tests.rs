use super::*;

fn measured(ops: u64, latency_ms: u64, cpu_ms: Option<u64>) -> Measured {
    let spent = Duration::from_millis;
    Measured {
        ops,
        bytes: ops * 4096,
        elapsed: Duration::from_secs(1),
        latencies: (0..ops).map(|_| spent(latency_ms)).collect(),
        cpu: cpu_ms.map(|cpu| (spent(cpu), spent(cpu))),
        generator: spent(50),
        others: Duration::ZERO,
        foreign: Some(Duration::ZERO),
    }
}

/// A report of two targets and two scenarios.
pub(crate) fn example() -> Report {
    let machine = Machine {
        cores: 2,
        cpu: "Some CPU".into(),
        memory_mib: 4096,
        kernel: "6.1".into(),
        filesystem: "ext4".into(),
        load_before: 0.1,
    };
    let disk = Disk { fdatasync_per_s: 812.4, fdatasync_p50_ms: 1.1, fdatasync_p99_ms: 3.0, write_mb_per_s: 900.0 };
    let mut report = Report::new("example", machine, Some(disk), "minio");
    (report.rounds, report.round_s, report.list_objects) = (3, 1.0, 2000);
    let memory = |mib| BTreeMap::from([("server", Memory { resident_mib: mib, peak_mib: mib * 2.0 })]);
    for (name, mib) in [("holdfast", 20.0), ("minio", 120.0)] {
        report.targets.push(TargetFacts {
            name: name.into(),
            version: format!("{name} 1.0"),
            memory_idle: memory(mib),
            loaded: (name == "minio").then(|| Loaded {
                objects: 2000,
                objects_per_s: 500.0,
                memory: memory(300.0),
                disk_bytes: Some(64 << 20),
            }),
            memory_end: memory(mib + 10.0),
            disk_bytes_end: Some(128 << 20),
            cpu_s: Some(3.25),
        });
    }
    let own = [measured(900, 1, Some(200)), measured(1000, 1, Some(210)), measured(800, 2, Some(190))];
    let reference = [measured(300, 3, Some(400)), measured(250, 4, Some(350)), measured(400, 2, Some(450))];
    let blind = [measured(10, 90, None), measured(10, 90, None)];
    let named = |name| crate::scenario::all().into_iter().find(|row| row.name == name).unwrap();
    let names = ["holdfast", "minio"];
    report.scenarios = vec![
        ScenarioResult { scenario: named("put-4k-c1"), rows: rows(&names, &[own.to_vec(), reference.to_vec()], 1) },
        ScenarioResult { scenario: named("put-64m-c1"), rows: rows(&names, &[blind.to_vec(), reference.to_vec()], 1) },
    ];
    // Depends on the machine that runs the test.
    report.scenarios.iter_mut().flat_map(|result| &mut result.rows).for_each(|row| row.disturbed_percent = Some(2.0));
    report
}

#[test]
fn the_table_shows_rates_ratios_and_sizes() {
    insta::assert_snapshot!(table(&example()), @"
    example: 3 rounds of 1 s, alternating; listings among 2000 objects
    2 cores (Some CPU), 4096 MiB, Linux 6.1, ext4, load 0.10 before
    disk alone: 812 fdatasync of 4 KiB per s (p50 1.10 ms, p99 3.00 ms), 900 MB/s written
    holdfast: holdfast 1.0
    minio: minio 1.0

    ratios are to minio: of rates, above 1 is faster; of CPU, below 1 is cheaper

    scenario    target    ops/s   low..high  x rate   low..high  MB/s  p50 ms  p99 ms  CPU ms/1000  x CPU  generator  disturbed
    put-4k-c1   holdfast    900   800..1000    3.00  2.00..4.00  3.69    1.00    2.00          222   0.18       55.6        2 %
                minio       300    250..400       -           -  1.30    3.00    4.00         1263      -        158        2 %
    put-64m-c1  holdfast   10.0  10.0..10.0    0.04  0.03..0.04  0.04    90.0    90.0            -      -       5000        2 %
                minio       300    250..400       -           -  1.30    3.00    4.00         1263      -        158        2 %

    target    idle MiB  loaded MiB  end MiB  peak MiB  objects loaded/s  disk MiB loaded  disk MiB end  CPU s
    holdfast      20.0           -     30.0      60.0                 -                -           128   3.25
    minio          120         300      130       260               500             64.0           128   3.25
    ");
}

#[test]
fn a_ratio_is_taken_round_by_round() {
    let report = example();
    let row = &report.scenarios[0].rows[0];
    assert_eq!(row.ratio, Some(Spread { median: 3.0, low: 2.0, high: 4.0 }));
    assert_eq!(report.scenarios[0].rows[1].ratio, None);
    let expected = (600.0 / 2700.0) / (1200.0 / 950.0);
    assert!((row.cpu_ratio.unwrap() - expected).abs() < 1e-9);
    assert_eq!(report.scenarios[1].rows[0].cpu_ratio, None, "no ratio with a process that nobody sees");
}

#[test]
fn time_of_others_is_what_neither_target_nor_generator_spent() {
    use crate::target::Cpu;
    let spent = Duration::from_millis;
    let times = |a, b, generator, machine| Times {
        targets: vec![Some(Cpu { all: spent(a), front: spent(a / 2) }), Some(Cpu { all: spent(b), front: spent(b) })],
        generator: spent(generator),
        machine: spent(machine),
    };
    let round = Round { bytes: 0, elapsed: spent(1000), latencies: vec![spent(1)] };
    let measured = Measured::new(round, &times(10, 10, 10, 100), &times(110, 30, 60, 400), 0);
    assert_eq!(measured.cpu, Some((spent(100), spent(50))));
    assert_eq!((measured.others, measured.generator, measured.foreign), (spent(20), spent(50), Some(spent(130))));
}

#[test]
fn a_target_that_is_not_ours_hides_who_disturbs() {
    let times =
        |machine| Times { targets: vec![None], generator: Duration::ZERO, machine: Duration::from_millis(machine) };
    let round = Round { bytes: 0, elapsed: Duration::from_secs(1), latencies: Vec::new() };
    let measured = Measured::new(round, &times(0), &times(900), 0);
    assert_eq!((measured.cpu, measured.foreign), (None, None));
}

#[test]
fn the_json_names_what_was_measured() {
    let json = serde_json::to_value(example()).unwrap();
    assert_eq!(json["format"], 1);
    assert_eq!(json["scenarios"][0]["name"], "put-4k-c1");
    assert_eq!(json["scenarios"][0]["clients"], 1);
    assert_eq!(json["scenarios"][0]["rows"][0]["ratio"]["median"], 3.0);
    assert_eq!(json["targets"][1]["loaded"]["objects"], 2000);
}
