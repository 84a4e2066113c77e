FROM fat AS dependencies
WORKDIR /app
COPY package.json package-lock.json ./
COPY vendor ./vendor
RUN npm ci --offline --omit=dev --no-audit --no-fund --cache /tmp/npm && rm -rf /tmp/npm

FROM dependencies AS build
COPY index.js ./
RUN npm run build --cache /tmp/npm && rm -rf /tmp/npm

FROM fat
ENV NODE_ENV=production
WORKDIR /app
COPY --from=dependencies /app/node_modules ./node_modules
COPY --from=dependencies /app/vendor ./vendor
COPY --from=build /app/dist ./dist
COPY package.json ./
RUN node dist/index.js > said
USER nobody
EXPOSE 3000/tcp
ENTRYPOINT ["node"]
CMD ["dist/index.js"]
