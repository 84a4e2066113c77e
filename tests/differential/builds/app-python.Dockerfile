FROM fat AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY requirements.txt .
COPY vendor vendor
RUN python3 -m venv --system-site-packages --without-pip /venv \
    && python3 -m pip --python /venv/bin/python install --no-index --no-build-isolation --no-compile -r requirements.txt
COPY app.py .

FROM fat
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/venv/bin:$PATH
WORKDIR /app
RUN groupadd --gid 10001 app && useradd --uid 10001 --gid app --no-create-home --no-log-init app
COPY --from=build --chown=app:app /venv /venv
COPY --chown=app:app app.py .
USER app
RUN ["/venv/bin/python", "app.py", "/tmp/said"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=3s CMD ["python", "-c", "import greeting"]
CMD ["python", "app.py"]
#: chance: venv/lib/python3.11/site-packages/greeting-1.0.dist-info/RECORD
#: differs buildah: config Env* - it puts what is changed last
