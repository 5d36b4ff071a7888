-- Which releases an image was for; removing a release asks for its jobs.

CREATE INDEX release_image ON release (image_id);
CREATE INDEX job_release ON job (release);
