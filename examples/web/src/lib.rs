//! What the page calls. Numbers cross as pointers into this module's memory: a function says how many numbers it has
//! left at [`numbers`], or −1, and then a message of [`message_length`] bytes at [`message`].

#[path = "../../classify/digit.rs"]
mod digit;
mod reader;

use candle_core::{bail, Result};
use image::{DynamicImage, RgbaImage};
use reader::{Method, Reader, Windows};
use std::cell::RefCell;

#[derive(Default)]
struct Page {
    reader: Option<Reader>,
    image: RgbaImage,
    numbers: Vec<f32>,
    message: String,
}

thread_local! {
    static PAGE: RefCell<Page> = RefCell::default();
}

/// Room for an image, 4 bytes a pixel: red, green, blue, alpha.
#[no_mangle]
pub extern "C" fn pixels(width: u32, height: u32) -> *mut u8 {
    PAGE.with_borrow_mut(|page| {
        page.image = RgbaImage::new(width, height);
        page.image.as_mut_ptr()
    })
}

/// Reads the digit in [`pixels`]: 10 probabilities, the 28×28 cells that the network was given, and the activations of
/// its first layer, [`reader::CHANNELS`] maps of as many cells.
#[no_mangle]
pub extern "C" fn read() -> i32 {
    answer(|page| {
        let image = DynamicImage::ImageRgba8(page.image.clone());
        if image.width() == 0 || image.height() == 0 {
            bail!("an image without pixels");
        }
        let ink = digit::ink(&image);
        let reading = page.reader()?.read(&ink)?;
        Ok([reading.probabilities, ink, reading.maps].concat())
    })
}

/// The maps of the last digit, pooled: by 0 SoftPool, 1 the maximum, 2 the average.
#[no_mangle]
pub extern "C" fn pool(method: u32, kernel: u32, beta: f64) -> i32 {
    answer(|page| {
        let method = match method {
            0 => Method::Soft,
            1 => Method::Max,
            2 => Method::Average,
            _ => bail!("method {method}, expected 0 to 2"),
        };
        page.reader()?.pool(method, Windows { kernel, beta })
    })
}

/// What SoftPool makes of the maps of the last digit, and before it each cell's weight in its window.
#[no_mangle]
pub extern "C" fn weigh(kernel: u32, beta: f64) -> i32 {
    answer(|page| page.reader()?.weigh(Windows { kernel, beta }))
}

/// Where the last answer lies, until the next call.
#[no_mangle]
pub extern "C" fn numbers() -> *const f32 {
    PAGE.with_borrow(|page| page.numbers.as_ptr())
}

/// Where the last error's message lies.
#[no_mangle]
pub extern "C" fn message() -> *const u8 {
    PAGE.with_borrow(|page| page.message.as_ptr())
}

/// Bytes of the last error's message.
#[no_mangle]
pub extern "C" fn message_length() -> usize {
    PAGE.with_borrow(|page| page.message.len())
}

impl Page {
    fn reader(&mut self) -> Result<&mut Reader> {
        match &mut self.reader {
            Some(reader) => Ok(reader),
            none => Ok(none.insert(Reader::new()?)),
        }
    }
}

fn answer(numbers: impl FnOnce(&mut Page) -> Result<Vec<f32>>) -> i32 {
    PAGE.with_borrow_mut(|page| match numbers(page) {
        Ok(numbers) => {
            page.numbers = numbers;
            page.numbers.len() as i32
        }
        Err(error) => {
            page.message = error.to_string();
            -1
        }
    })
}
