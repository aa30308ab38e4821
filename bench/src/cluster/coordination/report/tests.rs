use std::time::Duration;

use super::*;

const NAMES: [&str; 2] = ["holdfast", "etcd"];

fn measured(ops: u64, late_ms: u64, cpu_ms: u64) -> Measured {
    let spent = Duration::from_millis;
    Measured {
        ops,
        bytes: 0,
        elapsed: Duration::from_secs(1),
        latencies: vec![spent(late_ms); 10],
        cpu: Some((spent(cpu_ms), spent(cpu_ms / 2))),
        generator: spent(500),
        others: Duration::ZERO,
        foreign: None,
    }
}

fn late(ms: u64) -> LatencyRound {
    LatencyRound {
        measured: measured(1000, ms, 100),
        writes: 10,
        put: vec![Duration::from_millis(ms); 10],
        from_ack: vec![-0.5; 1000],
        last_from_ack: vec![0.25; 10],
    }
}

fn fan(ops: u64) -> FanOutRound {
    let (writing, draining) = (Duration::from_millis(800), Duration::from_millis(200));
    FanOutRound { measured: measured(ops, 7, 100), writes: 80, writing, draining }
}

#[test]
fn ratios_are_of_neighbouring_rounds() {
    let result = latencies(&NAMES, 100, 0, vec![vec![late(4), late(9)], vec![late(2), late(3)]]);
    assert_eq!(result.rows[0].ratio, Some(Spread { median: 2.5, low: 2.0, high: 3.0 }));
    assert_eq!(result.rows[1].ratio, None);
    let row = &result.rows[0];
    assert_eq!((row.writes, row.events, row.from_sent_p50_ms, row.from_sent_p99_ms), (20, 2000, 4.0, 9.0));
    assert_eq!((row.from_ack_p50_ms, row.last_from_ack_p99_ms), (-0.5, 0.25));
    assert_eq!((row.cpu_ms_per_1000, row.cpu_front_ms_per_1000), (Some(100.0), Some(50.0)));
}

#[test]
fn a_fan_out_counts_events_and_not_samples() {
    let result = fan_out(&NAMES, 100, vec![vec![fan(8000)], vec![fan(4000)]], &[Some(3), None]);
    let FanOutRow { row, writes_per_s, drain_s, generator_percent, lagged } = &result.rows[0];
    assert_eq!((row.ops, row.ops_per_s.median, row.ratio.map(|ratio| ratio.median)), (8000, 8000.0, Some(2.0)));
    assert_eq!((writes_per_s.median, drain_s.median, *generator_percent, *lagged), (100.0, 0.2, 50.0, Some(3)));
}

#[test]
fn the_markdown_has_as_many_cells_in_each_row_as_in_its_head() {
    let machine = Machine::here(std::path::Path::new("/"));
    let disk = Disk { fdatasync_per_s: 812.4, fdatasync_p50_ms: 1.1, fdatasync_p99_ms: 3.0, write_mb_per_s: 900.0 };
    let options = Options {
        rounds: 1,
        round_time: Duration::from_secs(1),
        idle_time: Duration::from_secs(1),
        settle: Duration::ZERO,
        watchers: 100,
        quiet_watchers: 1000,
        streams: 1,
        directory: "/".into(),
    };
    let mut report = Report::new("example", machine, disk, &options);
    report.locks.push(locks(&NAMES, 64, 1, &[vec![measured(10, 1, 1)], vec![measured(20, 1, 1)]]));
    report.latencies.push(latencies(&NAMES, 100, 1000, vec![vec![late(4)], vec![late(2)]]));
    report.fan_out = Some(fan_out(&NAMES, 100, vec![vec![fan(8000)], vec![fan(4000)]], &[Some(3), None]));
    let one = Spread { median: 1.0, low: 1.0, high: 1.0 };
    report.quiet.push(Quiet {
        system: "holdfast",
        watchers: 1000,
        open_s: one,
        mib_before: vec![50.0; 3],
        mib_with: vec![60.0; 3],
        mib_after: vec![55.0; 3],
        kib_each: 30.7,
        cpu_before_percent: 2.5,
        cpu_percent: one,
        generator_percent: one,
    });
    let text = markdown(&report);
    let tables: Vec<Vec<&str>> = text
        .split("\n\n")
        .map(|part| part.lines().filter(|line| line.starts_with('|')).collect())
        .filter(|lines: &Vec<&str>| !lines.is_empty())
        .collect();
    assert_eq!(tables.len(), 4, "{text}");
    for table in tables {
        let cells = |line: &str| line.matches('|').count();
        assert!(table.len() > 2 && table.iter().all(|line| cells(line) == cells(table[0])), "{table:#?}");
    }
}
