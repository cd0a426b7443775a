# The application of this repository with its engine. `lastacross new` writes one for an application of yours.
FROM python:3.13-slim
WORKDIR /app
COPY requirements.lock pyproject.toml ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY . .
RUN pip install --no-cache-dir --no-deps . && useradd --system app && mkdir -p /data && chown app /data
USER app
ENV LASTACROSS_DATA_DIR=/data PYTHONUNBUFFERED=1
EXPOSE 8080
CMD ["lastacross", "web"]
