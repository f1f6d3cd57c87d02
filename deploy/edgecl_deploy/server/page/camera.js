// Pictures: of a camera, or of files.

const LONGEST = 640; // pixels of a side that is sent
const QUALITY = 0.9;
const WHOLE = 4e6; // bytes of a file that is sent as it is

export const possible = Boolean(navigator.mediaDevices?.getUserMedia);

export class Camera {
  constructor(video) {
    this.video = video;
    this.canvas = document.createElement("canvas");
  }

  get runs() {
    return Boolean(this.video.srcObject) && this.video.videoWidth > 0;
  }

  async start(id) {
    this.stop();
    const which = id ? { deviceId: { exact: id } } : { facingMode: "environment" };
    const wanted = { ...which, width: { ideal: 1280 }, height: { ideal: 960 } };
    this.video.srcObject = await navigator.mediaDevices.getUserMedia({ audio: false, video: wanted });
    await this.video.play();
  }

  stop() {
    for (const track of this.video.srcObject?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
  }

  get id() {
    return this.video.srcObject?.getVideoTracks()[0]?.getSettings().deviceId ?? "";
  }

  async others() {
    const all = await navigator.mediaDevices.enumerateDevices();
    return all.filter((each) => each.kind === "videoinput");
  }

  frame() {
    return jpeg(this.canvas, this.video, this.video.videoWidth, this.video.videoHeight);
  }
}

function jpeg(canvas, source, width, height) {
  const scale = Math.min(1, LONGEST / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(source, 0, 0, canvas.width, canvas.height);
  return new Promise((done, failed) => {
    canvas.toBlob((blob) => (blob ? done(blob) : failed(new Error("The browser gave no picture."))), "image/jpeg", QUALITY);
  });
}

// A file as it is, or a smaller picture of it if it is large.
export async function picture(file) {
  if (file.size <= WHOLE) return file;
  const bitmap = await createImageBitmap(file);
  return jpeg(document.createElement("canvas"), bitmap, bitmap.width, bitmap.height);
}
