"""Make docs/images/demo.webp from a finished run: python docs/images/make_demo.py RUN_FOLDER."""

import sys
from pathlib import Path

import imageio_ffmpeg
from PIL import Image, ImageDraw, ImageFont

SIZE = 224  # pixels across each panel
GAP = 20  # between panels
TITLE = 24  # height of the line above them
EVERY = 2  # every second frame of the turntable
MILLISECONDS = 66  # that a frame is shown
SHOWN = (0, 2, 5, 7, 10, 12, 15, 17, 19)  # of the 21 views
TITLES = ("one picture", "views by the prior", "the mesh")


def main(run: Path) -> None:
    """Write the animation: the picture, nine of the views, and the turning mesh."""
    views = [over_white(Image.open(run / "views" / f"{index:03d}.png")) for index in SHOWN]
    still = frame_of(over_white(Image.open(run / "views" / "020.png")), sheet(views))
    frames = []
    for picture in turntable(run / "test" / "turntable.mp4")[::EVERY]:
        frame = still.copy()
        frame.paste(picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS), (2 * (SIZE + GAP), TITLE))
        frames.append(frame)
    options = {"duration": MILLISECONDS, "loop": 0, "quality": 80, "method": 6, "minimize_size": True}
    frames[0].save(Path(__file__).with_name("demo.webp"), save_all=True, append_images=frames[1:], **options)


def over_white(image: Image.Image) -> Image.Image:
    """The picture over white, at the size of a panel."""
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB").resize((SIZE, SIZE))


def sheet(views: list[Image.Image]) -> Image.Image:
    """Nine views, three by three, at the size of a panel."""
    result, side = Image.new("RGB", (SIZE, SIZE), "white"), SIZE // 3
    for index, view in enumerate(views):
        result.paste(view.resize((side, side), Image.Resampling.LANCZOS), (index % 3 * side, index // 3 * side))
    return result


def frame_of(picture: Image.Image, views: Image.Image) -> Image.Image:
    """A frame without the mesh."""
    frame = Image.new("RGB", (3 * SIZE + 2 * GAP, SIZE + TITLE), "white")
    draw = ImageDraw.Draw(frame)
    for index, title in enumerate(TITLES):
        middle = index * (SIZE + GAP) + SIZE // 2
        draw.text((middle, 4), title, fill="black", font=ImageFont.load_default(15), anchor="ma")
    frame.paste(picture, (0, TITLE))
    frame.paste(views, (SIZE + GAP, TITLE))
    return frame


def turntable(video: Path) -> list[Image.Image]:
    """The frames of a video."""
    reader = imageio_ffmpeg.read_frames(str(video))
    size = next(reader)["size"]
    return [Image.frombytes("RGB", size, data) for data in reader]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
