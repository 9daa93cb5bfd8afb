//! Files with random damage: whatever their headers and settings say, opening them gives a model or an error.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

const NUMBERS: [u64; 12] = [
    0,
    1,
    3,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 32,
    1 << 40,
    (1 << 53) + 1,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];
const WORDS: [&str; 14] = [
    "-1",
    "0",
    "1",
    "7",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "99999999999999999999999",
    "1e308",
    "0.5",
    "null",
    "[]",
    "{}",
    "\"\"",
];

/// Damages the description of the tensors, sometimes the tensors themselves.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let header = match (bytes.starts_with(b"GGUF"), bytes.first_chunk().map(|&n| u64::from_le_bytes(n))) {
        (false, Some(length)) if length < bytes.len() as u64 => bytes.len().min(length as usize + 8),
        _ => bytes.len(),
    };
    let end = if random.below(8) == 0 { bytes.len() } else { header };
    let at = random.below(end);
    match random.below(6) {
        0 => bytes[at] = random.next() as u8,
        1 => bytes[at] ^= 1 << random.below(8),
        2 => {
            let (number, width) = (random.pick(&NUMBERS).to_le_bytes(), random.pick(&[1, 2, 4, 8]));
            let width = width.min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&number[..width]);
        }
        3 => bytes.truncate(at),
        4 => {
            // Another value in the JSON, in place of the nearest number or word.
            let is_value = |b: &u8| b.is_ascii_alphanumeric() || b"-.\"".contains(b);
            let start = bytes[at..end].iter().position(is_value).map_or(at, |skipped| at + skipped);
            let length = bytes[start..end].iter().take_while(|b| is_value(b)).count();
            bytes.splice(start..start + length, random.pick(&WORDS).bytes());
        }
        _ => {
            let length = random.below(64).min(bytes.len() - at);
            let from = random.below(bytes.len() - length + 1);
            bytes.copy_within(from..from + length, at);
        }
    }
}

fn use_everything(path: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(path)?;
    checkpoint.tensors().count();
    for name in checkpoint.trained_names() {
        // An error in one tensor says nothing about the next.
        let _ = (checkpoint.layout(&name), checkpoint.weight(&name).map(|_| ()));
    }
    for name in checkpoint.plain_names() {
        let _ = checkpoint.dense(&name).map(|_| ());
    }
    let _ = checkpoint.rows("model.embed_tokens.weight", &[0, 1, 1 << 20], 1.0, FloatType::F32);
    checkpoint.tokenizer_source().map(|_| ())
}

/// A model in a format for which there is no fixture.
fn written(format: QuantizedFormat, method: quant::QuantMethod, to: &Path) {
    let source = open("hf-f32");
    let config = QuantizeConfig { method, group_size: Some(-1), ..Default::default() };
    let target = format.target(&config, FloatType::F16).unwrap();
    let options = config.options(target.scale_dtype());
    let packed = &mut |name: &str| {
        let shape = source.shape(name)?;
        quant::quantize(&source.dense(name)?, [shape[0], shape[1]], options)
    };
    let names = source.config().block_linears();
    let linears = &mut Linears {
        names: &names,
        packed: PackedLinears::Made(packed),
        replaced: BTreeMap::new(),
        on_tensor: &mut |_| {},
    };
    write(&source, Staging::new(to).unwrap(), &target, MAX_SHARD_BYTES, linears).unwrap();
}

#[test]
fn damaged_files_are_read_or_refused() {
    // For a longer run: `QZO_MUTATIONS=20000 cargo test --release mutating`.
    let rounds = std::env::var("QZO_MUTATIONS").map_or(300, |rounds| rounds.parse().unwrap());
    let made = tempfile::tempdir().unwrap();
    let [aqlm, qzo] = ["aqlm", "qzo"].map(|name| made.path().join(name));
    written(QuantizedFormat::Aqlm, quant::QuantMethod::Vector, &aqlm);
    written(QuantizedFormat::Qzo, quant::QuantMethod::Learned, &qzo);
    let fixtures = QUANTIZED.into_iter().chain(BITSANDBYTES).chain(["hf-f32", "hf-bf16-sharded", "f16.gguf"]);
    let mut failures = vec![];
    for (seed, original) in fixtures.map(fixture).chain([aqlm, qzo]).enumerate() {
        let name = original.file_name().unwrap().display();
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("model");
        fs::create_dir(&path).unwrap();
        let whole: Vec<(PathBuf, Vec<u8>)> = match original.is_file() {
            true => vec![(path.join("model.gguf"), fs::read(&original).unwrap())],
            false => files(&original).into_iter().map(|(file, bytes)| (path.join(file), bytes)).collect(),
        };
        whole.iter().for_each(|(file, bytes)| fs::write(file, bytes).unwrap());
        use_everything(&path).unwrap();
        let mut random = Random(seed as u64);
        let mut refused = 0;
        for round in 0..rounds {
            let (file, bytes) = &whole[random.below(whole.len())];
            let mut damaged = bytes.clone();
            (0..=random.below(3)).for_each(|_| mutate(&mut damaged, &mut random));
            // A new file each time: one that is mapped must not be shortened.
            fs::remove_file(file).unwrap();
            fs::write(file, &damaged).unwrap();
            match catch_unwind(AssertUnwindSafe(|| use_everything(&path))) {
                Ok(result) => refused += usize::from(result.is_err()),
                Err(_) => failures.push(format!("{name}, round {round}")),
            }
            fs::remove_file(file).unwrap();
            fs::write(file, bytes).unwrap();
        }
        assert!(refused > rounds / 4, "{name}: {refused} refused");
    }
    assert!(failures.is_empty(), "{} panics: {failures:?}", failures.len());
}
