//! Python's pickle format, as far as `torch.save` uses it for a dictionary of tensors. A pickle is a program for a stack
//! machine. No function that it names is ever called: the few that make tensors and dictionaries are recognised by their
//! names, and all others give an empty value.
//!
//! Format: CPython `Lib/pickletools.py`; PyTorch `torch/_utils.py` (`_rebuild_tensor_v2`), and
//! `torch/serialization.py` (`persistent_id`).

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// A tensor, as a view of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PickledTensor {
    pub storage: PickleStorage,
    /// Counted in elements, as the strides are.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// One per dimension.
    pub strides: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PickleStorage {
    /// Module and class: `torch HalfStorage`.
    pub kind: Rc<str>,
    /// The name of its entry in the archive.
    pub key: Rc<str>,
}

#[derive(Debug, Clone)]
enum PickleValue {
    /// Any value that says nothing about tensors.
    Nothing,
    Integer(i64),
    Text(Rc<str>),
    /// Module and name.
    Global(Rc<str>),
    Tuple(Rc<PickleTuple>),
    /// An index into the machine's dictionaries, which are filled after they were made.
    Dictionary(usize),
    Storage(Rc<PickleStorage>),
    Tensor(Rc<PickledTensor>),
}

#[derive(Debug)]
struct PickleTuple {
    items: Vec<PickleValue>,
    /// The depth of nesting, which is limited so that recursion over the items ends.
    depth: usize,
}

/// The deepest nesting of tuples. A tensor's arguments need two levels.
const MAX_DEPTH: usize = 8;

/// The tensors of the pickled dictionary, by their names.
///
/// # Errors
/// An instruction that is not supported or lacks its operands; an object that is no dictionary.
pub fn tensors(pickle: &[u8]) -> Result<BTreeMap<String, PickledTensor>, String> {
    let mut machine = PickleMachine { rest: pickle, ..PickleMachine::default() };
    let result = loop {
        let left = machine.rest.len();
        match machine.step() {
            Ok(None) => {}
            Ok(Some(result)) => break result,
            Err(what) => return Err(format!("at byte {}: {what}", pickle.len() - left)),
        }
    };
    let PickleValue::Dictionary(index) = result else { return Err("it is no dictionary of tensors".into()) };
    let items = machine.dictionaries.swap_remove(index);
    let tensor = |(name, value): (Rc<str>, PickleValue)| match value {
        PickleValue::Tensor(tensor) => Some((name.to_string(), (*tensor).clone())),
        _ => None,
    };
    Ok(items.into_iter().filter_map(tensor).collect())
}

#[derive(Default)]
struct PickleMachine<'a> {
    rest: &'a [u8],
    stack: Vec<PickleValue>,
    /// The length of the stack at each mark.
    marks: Vec<usize>,
    memo: HashMap<u32, PickleValue>,
    /// The items of each dictionary that have text as their key.
    dictionaries: Vec<Vec<(Rc<str>, PickleValue)>>,
}

impl PickleMachine<'_> {
    /// Executes one instruction. The last one returns the pickled object.
    fn step(&mut self) -> Result<Option<PickleValue>, String> {
        let [instruction] = self.bytes()?;
        match instruction {
            b'.' => return self.pop().map(Some),
            // PROTO, FRAME
            0x80 => self.bytes::<1>().map(drop)?,
            0x95 => self.bytes::<8>().map(drop)?,
            b'(' => self.marks.push(self.stack.len()),
            b'0' => self.pop().map(drop)?,
            b'1' => self.down_to_mark().map(drop)?,
            // None, True, False, EMPTY_LIST, EMPTY_SET
            b'N' | 0x88 | 0x89 | b']' | 0x8f => self.stack.push(PickleValue::Nothing),
            // BINFLOAT
            b'G' => {
                self.bytes::<8>()?;
                self.stack.push(PickleValue::Nothing);
            }
            b'K' | b'M' | b'J' | 0x8a => {
                let integer = self.integer(instruction)?;
                self.stack.push(PickleValue::Integer(integer));
            }
            // BINUNICODE and its short and long forms, SHORT_BINSTRING, BINSTRING
            b'X' | 0x8c | 0x8d | b'U' | b'T' => {
                let text = self.text(instruction)?;
                self.stack.push(PickleValue::Text(text));
            }
            // BINBYTES and its short and long forms
            b'B' | b'C' | 0x8e => {
                let length = self.length(instruction)?;
                self.take(length)?;
                self.stack.push(PickleValue::Nothing);
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.stack.push(PickleValue::Global(format!("{module} {name}").into()));
            }
            // STACK_GLOBAL
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (PickleValue::Text(module), PickleValue::Text(name)) = (module, name) else {
                    return Err("a global without names".into());
                };
                self.stack.push(PickleValue::Global(format!("{module} {name}").into()));
            }
            b'q' | b'r' | 0x94 => {
                let place = match instruction {
                    b'q' => self.bytes::<1>()?[0].into(),
                    b'r' => u32::from_le_bytes(self.bytes()?),
                    _ => self.memo.len() as u32,
                };
                let value = self.stack.last().ok_or(EMPTY)?.clone();
                self.memo.insert(place, value);
            }
            b'h' | b'j' => {
                let place = match instruction {
                    b'h' => self.bytes::<1>()?[0].into(),
                    _ => u32::from_le_bytes(self.bytes()?),
                };
                let value = self.memo.get(&place).ok_or("a memo entry that was never set")?;
                self.stack.push(value.clone());
            }
            b')' | 0x85..=0x87 | b't' => {
                let items = match instruction {
                    b')' => vec![],
                    b't' => self.down_to_mark()?,
                    count => self.top(usize::from(count - 0x84))?,
                };
                let tuple = tuple(items)?;
                self.stack.push(tuple);
            }
            b'}' => self.push_dictionary(),
            b's' | b'u' => {
                let items = if instruction == b's' { self.top(2)? } else { self.down_to_mark()? };
                self.set(items)?;
            }
            // APPEND, APPENDS, ADDITEMS
            b'a' => self.pop().map(drop)?,
            b'e' | 0x90 => self.down_to_mark().map(drop)?,
            // BUILD sets an object's attributes, such as the versions in a dictionary of tensors.
            b'b' => self.pop().map(drop)?,
            // REDUCE, NEWOBJ
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.call(&function, &arguments)?;
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = storage(&id).ok_or("a persistent reference that is no storage")?;
                self.stack.push(PickleValue::Storage(Rc::new(storage)));
            }
            other => return Err(format!("instruction {other:#04x} is not one that tensors are saved with")),
        }
        Ok(None)
    }

    fn call(&mut self, function: &PickleValue, arguments: &PickleValue) -> Result<(), String> {
        let items = match arguments {
            PickleValue::Tuple(tuple) => &tuple.items[..],
            _ => &[],
        };
        let PickleValue::Global(name) = function else {
            return Err("a call of a value that is no function".into());
        };
        match &**name {
            "collections OrderedDict" => self.push_dictionary(),
            "torch._utils _rebuild_tensor_v2" => {
                let tensor = rebuild(items).ok_or("a tensor with arguments of unexpected types")?;
                self.stack.push(PickleValue::Tensor(Rc::new(tensor)));
            }
            "torch._utils _rebuild_parameter" => {
                self.stack.push(items.first().cloned().unwrap_or(PickleValue::Nothing));
            }
            _ => self.stack.push(PickleValue::Nothing),
        }
        Ok(())
    }

    fn push_dictionary(&mut self) {
        self.stack.push(PickleValue::Dictionary(self.dictionaries.len()));
        self.dictionaries.push(vec![]);
    }

    /// Adds keys and values to the dictionary on top of the stack.
    fn set(&mut self, items: Vec<PickleValue>) -> Result<(), String> {
        let index = match self.stack.last().ok_or(EMPTY)? {
            PickleValue::Dictionary(index) => *index,
            PickleValue::Nothing => return Ok(()),
            _ => return Err("items for a value that is no dictionary".into()),
        };
        let into = self.dictionaries.get_mut(index).ok_or(EMPTY)?;
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            if let PickleValue::Text(key) = key {
                into.push((key, value));
            }
        }
        Ok(())
    }

    fn pop(&mut self) -> Result<PickleValue, String> {
        // Values below a mark cannot be popped until the mark is gone.
        match self.stack.len() > self.marks.last().copied().unwrap_or(0) {
            true => self.stack.pop().ok_or_else(|| EMPTY.into()),
            false => Err(EMPTY.into()),
        }
    }

    fn top(&mut self, count: usize) -> Result<Vec<PickleValue>, String> {
        let bottom = self.marks.last().copied().unwrap_or(0);
        let from = self.stack.len().checked_sub(count).filter(|from| *from >= bottom).ok_or(EMPTY)?;
        Ok(self.stack.split_off(from))
    }

    fn down_to_mark(&mut self) -> Result<Vec<PickleValue>, String> {
        let mark = self.marks.pop().ok_or("no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn integer(&mut self, instruction: u8) -> Result<i64, String> {
        Ok(match instruction {
            b'K' => self.bytes::<1>()?[0].into(),
            b'M' => u16::from_le_bytes(self.bytes()?).into(),
            b'J' => i32::from_le_bytes(self.bytes()?).into(),
            // LONG1: two's complement in as few bytes as it takes
            _ => {
                let length = usize::from(self.bytes::<1>()?[0]);
                let bytes = self.take(length)?;
                if length > 8 {
                    return Err("an integer of more than 64 bits".into());
                }
                let negative = bytes.last().is_some_and(|byte| *byte >= 0x80);
                let mut all = [if negative { 0xff } else { 0 }; 8];
                all[..length].copy_from_slice(bytes);
                i64::from_le_bytes(all)
            }
        })
    }

    fn text(&mut self, instruction: u8) -> Result<Rc<str>, String> {
        let length = self.length(instruction)?;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map(Into::into).map_err(|_| "text that is not UTF-8".into())
    }

    /// The length of text or bytes.
    fn length(&mut self, instruction: u8) -> Result<usize, String> {
        let length = match instruction {
            0x8c | b'U' | b'C' => u64::from(self.bytes::<1>()?[0]),
            0x8d | 0x8e => u64::from_le_bytes(self.bytes()?),
            _ => u64::from(u32::from_le_bytes(self.bytes()?)),
        };
        usize::try_from(length).map_err(|_| CUT.into())
    }

    fn line(&mut self) -> Result<String, String> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').ok_or(CUT)?;
        let line = self.take(end)?.to_vec();
        self.take(1)?;
        String::from_utf8(line).map_err(|_| "a name that is not UTF-8".into())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(CUT)?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn take(&mut self, length: usize) -> Result<&[u8], String> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(CUT)?;
        self.rest = rest;
        Ok(bytes)
    }
}

const EMPTY: &str = "an instruction without its operands";
const CUT: &str = "it ends within an instruction";

fn tuple(items: Vec<PickleValue>) -> Result<PickleValue, String> {
    let inner = items.iter().map(|item| match item {
        PickleValue::Tuple(tuple) => tuple.depth,
        _ => 0,
    });
    let depth = inner.max().unwrap_or(0) + 1;
    match depth > MAX_DEPTH {
        true => Err(format!("tuples nested deeper than {MAX_DEPTH}")),
        false => Ok(PickleValue::Tuple(Rc::new(PickleTuple { items, depth }))),
    }
}

/// `("storage", class, key, device, number of elements)`
fn storage(id: &PickleValue) -> Option<PickleStorage> {
    let PickleValue::Tuple(id) = id else { return None };
    match &id.items[..] {
        [PickleValue::Text(word), PickleValue::Global(kind), PickleValue::Text(key), ..]
            if &**word == "storage" =>
        {
            Some(PickleStorage { kind: Rc::clone(kind), key: Rc::clone(key) })
        }
        _ => None,
    }
}

/// `(storage, offset, sizes, strides, …)`
fn rebuild(arguments: &[PickleValue]) -> Option<PickledTensor> {
    let [
        PickleValue::Storage(storage),
        PickleValue::Integer(offset),
        PickleValue::Tuple(sizes),
        PickleValue::Tuple(strides),
        ..,
    ] = arguments
    else {
        return None;
    };
    let numbers = |tuple: &PickleTuple| -> Option<Vec<usize>> {
        let number = |value: &PickleValue| match value {
            PickleValue::Integer(value) => usize::try_from(*value).ok(),
            _ => None,
        };
        tuple.items.iter().map(number).collect()
    };
    let (shape, strides) = (numbers(sizes)?, numbers(strides)?);
    let offset = usize::try_from(*offset).ok()?;
    (shape.len() == strides.len()).then(|| PickledTensor {
        storage: (**storage).clone(),
        offset,
        shape,
        strides,
    })
}
