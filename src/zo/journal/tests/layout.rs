//! The bytes of a journal, and the records and moves that it returns.

use std::fs;

use super::*;

#[test]
fn a_journal_returns_its_records_and_continues_after_them() {
    let (_folder, path) = written(3);
    assert_eq!(fs::metadata(&path).unwrap().len() as usize, offset_of(3));
    assert_eq!(read(&path).unwrap(), (header(), records(3), None));
    let (mut journal, found, torn) = Journal::open(&path, &header()).unwrap();
    assert_eq!((found, torn), (records(3), None));
    journal.append(&record(3)).unwrap();
    drop(journal);
    assert_eq!(read(&path).unwrap(), (header(), records(4), None));
}

#[test]
fn the_losses_of_a_skipped_step_are_kept_to_the_bit() {
    let (_folder, path) = written(1);
    let mut skipped = record(1);
    skipped.skipped = true;
    probes(&mut skipped)[0] =
        ProbeRecord { loss_plus: f64::NAN, loss_minus: f64::NEG_INFINITY, coefficient: 0.0 };
    probes(&mut skipped)[1].coefficient = 0.0;
    let (mut journal, ..) = Journal::open(&path, &header()).unwrap();
    journal.append(&skipped).unwrap();
    let (header, found, _) = read(&path).unwrap();
    assert_eq!(found[1].encode(0, 0), skipped.encode(0, 0));
    assert!(found[1].skipped);
    assert_eq!(header.method.moves(&found[1]), []);
}

#[test]
fn the_moves_of_a_step_follow_from_its_record() {
    let step = record(4);
    let moves = header().method.moves(&step);
    let expected = |probe: u32| Move {
        direction: Direction {
            distribution: Distribution::Gaussian,
            mode: ScaleMode::Relative,
            seed: seed(&record(4)),
            probe,
        },
        coefficient: probes(&mut record(4))[probe as usize].coefficient,
    };
    assert_eq!(moves, [expected(0), expected(1)]);
}

const GOLDEN_CHECKSUMS: [u32; 3] = [0x7dae_402b, 0xffd4_a5dd, 0x64aa_50bf];

/// The checksums were computed with Python's struct and zlib.crc32 from the layout in the module's documentation.
#[test]
fn the_bytes_of_zo_records_follow_the_documented_layout() {
    let one_probe = JournalHeader {
        method: JournalMethod::Zo {
            probes: 1,
            distribution: Distribution::Rademacher,
            mode: ScaleMode::Relative,
        },
        ..header()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = Journal::create(&path, &one_probe).unwrap();
    for step in [7, 8] {
        let probe = ProbeRecord { loss_plus: 0.75, loss_minus: 0.5, coefficient: -0.125 };
        journal
            .append(&Record {
                step,
                data_cursor: 16,
                skipped: false,
                taken: StepTaken::Zo { seed: 9, probes: vec![probe] },
            })
            .unwrap();
    }
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 164 + 2 * 52);
    let word = |offset: usize| u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap());
    assert_eq!([word(160), word(212), word(264)], GOLDEN_CHECKSUMS);
    assert_eq!(bytes[..32], *b"qzo-jrnl\x02\0\0\0\x34\0\0\0\0\0\0\0\x01\0\0\0\x01\0\0\0\x01\x01\0\0");
}

fn exact(step: u64) -> Record {
    let taken = StepTaken::Exact {
        loss: 0.5,
        grad_norm: 2.0,
        learning_rate: 1e-3,
        snapshot: if step < 8 { [0; 32] } else { [9; 32] },
    };
    Record { step, data_cursor: 16, skipped: step == 8, taken }
}

const GOLDEN_EXACT_CHECKSUMS: [u32; 3] = [0x32dd_ce43, 0x1a41_8c46, 0x2a8a_b0a3];

/// The checksums were computed with Python's struct and zlib.crc32 from the layout in the module's documentation.
#[test]
fn the_bytes_of_exact_records_follow_the_documented_layout() {
    let exact_header = JournalHeader { method: JournalMethod::Exact, ..header() };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = Journal::create(&path, &exact_header).unwrap();
    [7, 8].iter().for_each(|step| journal.append(&exact(*step)).unwrap());
    let refused = journal.append(&record(9)).unwrap_err().to_string();
    assert!(refused.contains("another method"), "{refused}");
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 164 + 2 * 80);
    let word = |offset: usize| u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap());
    assert_eq!([word(160), word(240), word(320)], GOLDEN_EXACT_CHECKSUMS);
    let (found, records, _) = read(&path).unwrap();
    assert_eq!((&found, &records), (&exact_header, &vec![exact(7), exact(8)]));
    assert_eq!(found.method.moves(&records[0]), []);
}

#[test]
fn a_journal_of_version_1_is_refused_with_advice() {
    let mut old = header().encode().0;
    old[8] = 1;
    let refused = JournalHeader::decode(Path::new("journal"), &old[..156]).unwrap_err();
    assert!(refused.to_string().contains("journal format version 1, expected 2"), "{refused}");
    assert!(refused.help().unwrap().contains("the qzo version that began it"), "{refused:?}");
}
