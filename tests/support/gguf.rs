//! Offsets of the tensors in a GGUF file. Spec: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::ops::Range;

pub struct GgufTensor {
    pub name: String,
    /// ggml's number of the type: 0 F32, 2 and 3 Q4_0 and Q4_1, 6 and 7 Q5_0 and Q5_1, 8 Q8_0, 10 to 14 Q2_K to Q6_K.
    pub kind: u32,
    /// Offset of its data in the file.
    pub start: usize,
    pub elements: usize,
}

impl GgufTensor {
    /// Elements of a block, its bytes, and those of its bytes that are scale and minimum.
    fn block(&self) -> Option<(usize, usize, Range<usize>)> {
        match self.kind {
            2 => Some((32, 18, 0..2)),
            3 => Some((32, 20, 0..4)),
            6 => Some((32, 22, 0..2)),
            7 => Some((32, 24, 0..4)),
            8 => Some((32, 34, 0..2)),
            10 => Some((256, 84, 80..84)),
            11 => Some((256, 110, 108..110)),
            12 => Some((256, 144, 0..4)),
            13 => Some((256, 176, 0..4)),
            14 => Some((256, 210, 208..210)),
            _ => None,
        }
    }

    /// The bytes that training may change.
    pub fn scale_bytes(&self) -> Vec<Range<usize>> {
        let Some((elements, bytes, scale)) = self.block() else { return Vec::new() };
        let starts = (0..self.elements / elements).map(|block| self.start + block * bytes);
        starts.map(|start| start + scale.start..start + scale.end).collect()
    }
}

pub fn tensors(file: &[u8]) -> Vec<GgufTensor> {
    let mut at = Reader { file, offset: 8 };
    assert_eq!(&file[..4], b"GGUF");
    let (count, pairs) = (at.u64(), at.u64());
    for _ in 0..pairs {
        at.string();
        let kind = at.u32();
        at.skip_value(kind);
    }
    let mut tensors: Vec<GgufTensor> = (0..count)
        .map(|_| {
            let name = at.string();
            let dimensions = at.u32();
            let elements = (0..dimensions).map(|_| at.u64()).product::<u64>() as usize;
            GgufTensor { name, elements, kind: at.u32(), start: at.u64() as usize }
        })
        .collect();
    let data = at.offset.next_multiple_of(32);
    tensors.iter_mut().for_each(|tensor| tensor.start += data);
    tensors
}

struct Reader<'a> {
    file: &'a [u8],
    offset: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        self.offset += N;
        self.file[self.offset - N..self.offset].try_into().unwrap()
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn string(&mut self) -> String {
        let length = self.u64() as usize;
        self.offset += length;
        String::from_utf8(self.file[self.offset - length..self.offset].to_vec()).unwrap()
    }

    fn skip_value(&mut self, kind: u32) {
        match kind {
            0 | 1 | 7 => self.offset += 1,
            2 | 3 => self.offset += 2,
            4..=6 => self.offset += 4,
            10..=12 => self.offset += 8,
            8 => drop(self.string()),
            9 => {
                let kind = self.u32();
                (0..self.u64()).for_each(|_| self.skip_value(kind));
            }
            other => panic!("no metadata type {other}"),
        }
    }
}
